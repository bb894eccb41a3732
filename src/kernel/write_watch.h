// Which pages of a process are written to, from some moment on.
//
//     WriteWatch watch(pid, abi, userfaultfd);    // made by the process itself: userfaultfd(2)
//     watch.begin(vma); ...
//     ... it runs ...
//     watch.changes(vma)                          // what was written travels; what is dropped had
//                                                 // content then, and has none now
//
// The pages are write-protected with UFFD_FEATURE_WP_ASYNC (Linux 6.7): the kernel lifts the
// protection at the first write and tells nobody; PAGEMAP_SCAN sees what is protected still. What
// is touched for the first time, mapped later, or moved by mremap(2), counts as written. Only for
// private memory: pages of shared memory are the file's.
//
// While it lives the VMAs have the flag uw. It may be used by whoever may trace the process.
#pragma once

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "kernel/pagemap.h"
#include "kernel/userfault.h"

namespace telefork::kernel {

// Memory that is worth being watched for long: less is sent sooner.
inline constexpr std::uint64_t kLeastWatched = 1024 * 1024;

class WriteWatch {
 public:
  // Flags for userfaultfd(2), in the process. No handler is ever asked, so that what a plain user
  // may have is enough.
  static int flags();
  // Throws kUnsupported where this kernel cannot do it.
  WriteWatch(pid_t pid, PageMapAbi abi, UniqueFd userfaultfd);
  // With one that tells of missing pages as well, and watches writes.
  WriteWatch(pid_t pid, PageMapAbi abi, const Userfault& faults)
      : map_(pid, abi), fd_(faults.duplicate()) {}

  // With one that another WriteWatch was made with.
  static WriteWatch go_on(pid_t pid, PageMapAbi abi, UniqueFd userfaultfd) {
    return {PageMap(pid, abi), std::move(userfaultfd)};
  }

  // For a process that asks for it by itself: ioctl(fd, number, argument).
  struct Request {
    unsigned long number;
    std::array<std::byte, 32> argument;
  };
  // That all of `run` is watched; and that it counts as not written.
  static Request enlisting(const PageRun& run);
  static Request protecting(const PageRun& run);

  int fd() const { return fd_.get(); }
  // Another descriptor of it: the watch ends with the last one.
  UniqueFd duplicate() const { return fd_.duplicate(); }

  // A private mapping. The process stands still.
  void begin(const Vma& vma);
  // Only that: PageMap::protect_written() does the rest. The process may run; false where there is
  // no such memory any more, or somebody else watches it.
  bool enlist(const Vma& vma) const;
  // Whether no other userfaultfd watches it. One that begin() does not know is watched from now on.
  bool is_free(const Vma& vma) const;
  // In a private mapping that begin() may know or not; rising. A page of a file's that is swapped
  // out counts as written: it cannot be told from one that lost its copy, whose protection the
  // kernel remembers in the same place (PTE_MARKER_UFFD_WP).
  struct Changes {
    std::vector<PageRun> written;
    std::vector<PageRun> dropped;
    std::vector<PageRun> present;  // all that hold anything
  };
  Changes changes(const Vma& vma) const;

 private:
  WriteWatch(PageMap map, UniqueFd fd) : map_(std::move(map)), fd_(std::move(fd)) {}
  void protect(const PageRun& run) const;

  PageMap map_;
  UniqueFd fd_;
  std::vector<PageRun> before_;  // what had content, rising
};

// All of both, which rise.
std::vector<PageRun> unite_runs(const std::vector<PageRun>& a, const std::vector<PageRun>& b);
// What is in both, which rise.
std::vector<PageRun> intersect_runs(const std::vector<PageRun>& a, const std::vector<PageRun>& b);
// What of `runs` is in [start, end) and in none of `others`; all rise.
std::vector<PageRun> subtract_runs(const std::vector<PageRun>& runs, RemotePtr start, RemotePtr end,
                                   const std::vector<PageRun>& others);

}  // namespace telefork::kernel
