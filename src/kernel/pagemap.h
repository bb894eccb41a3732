// Which pages of a process are its own and must travel.
//
//     PageMap map(pid, abi);
//     for (const PageRun& run : map.private_pages(vma.start, vma.end))
//       read them, send them
//
// A page of a private mapping must travel when the process has it and no file has it: it was
// written to (anonymous memory, copy-on-write of a file's page), and is in memory or swapped out.
// What was never touched, what still is the file's, the kernel's zero page and guard pages do not
// travel. The answer may hold pages that are all zeros or equal to the file's: content decides,
// not the page table. (On some kernels a mere read of untouched memory gives such a page.)
//
// Two ways to ask the kernel:
//
//     kScanGuards  ioctl PAGEMAP_SCAN, Linux 6.15: 4 GB in 4 KB pages 9 ms, in huge pages 0.1 ms
//     kScan        the same without knowledge of guard pages, Linux 6.7
//     kEntries     read(2) of 8 bytes a page, every kernel: 8 MB for 4 GB, present or not
//
// On Linux 6.13 and 6.14 guard pages exist but look like swapped ones; reading one fails with
// EFAULT (process_vm_readv) or EIO (/proc/PID/mem), and is then to be left out.
//
// Shared memory is another matter: its pages belong to a file of the kernel's, and are absent from
// the page tables of a process that did not touch them, of a forked child, and when swapped out.
// Use shared_pages().
//
// A PageMap stays valid while the process lives, also across exec and after this process drops its
// privileges: the check is at the opening. Ranges of a running process are a snapshot of the past.
#pragma once

#include <cstdint>
#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "base/unique_fd.h"
#include "kernel/procfs_maps.h"

namespace telefork::kernel {

struct PageRun {
  RemotePtr start;
  std::uint64_t pages = 0;

  RemotePtr end() const { return start + pages * kPageSize; }
  bool operator==(const PageRun&) const = default;
};

std::uint64_t count_pages(const std::vector<PageRun>& runs);

// Appends, or lengthens the last run when the new one begins where it ends.
void append_run(std::vector<PageRun>& runs, PageRun run);

enum class PageMapAbi { kEntries, kScan, kScanGuards };

class PageMap {
 public:
  // Needs what ptrace needs. Throws kGone when there is no such process.
  PageMap(pid_t pid, PageMapAbi abi);

  // Whether there can be pages of a file, which to tell costs a look at every page, and not at the
  // page table alone: five times as much.
  enum class Of { kAny, kAnonymous };
  static Of kind_of(const Vma& vma) { return vma.is_anonymous() ? Of::kAnonymous : Of::kAny; }

  // Within [start, end), whole pages; ascending, not touching each other. Of anonymous and of
  // private file mappings alike; ranges that are not mapped count as untouched.
  std::vector<PageRun> private_pages(RemotePtr start, RemotePtr end, Of of = Of::kAny) const;

  struct Private {
    std::vector<PageRun> all;      // as private_pages() has them
    std::vector<PageRun> written;  // of those, what no userfaultfd protects from being written to
  };
  // At the cost of one scan; not with kEntries. See WriteWatch.
  Private private_and_written_pages(RemotePtr start, RemotePtr end, Of of = Of::kAny) const;
  // Of private anonymous memory of a process that may run, what a userfaultfd watches
  // asynchronously (see WriteWatch) and was written to since it was last protected, or never was.
  // The same call protects it, so that nothing falls in between. What nobody watches is passed
  // over. Not with kEntries.
  std::vector<PageRun> protect_written(RemotePtr start, RemotePtr end) const;
  // As private_and_written_pages(), and what nobody watches asynchronously counts as written. Adds
  // the guard pages there to `guards`, as guard_pages() has them with kScanGuards, else none.
  Private private_and_unprotected_pages(RemotePtr start, RemotePtr end,
                                        std::vector<PageRun>& guards) const;
  // Of all, likewise, the ones that are not in memory; not with kEntries.
  std::vector<PageRun> swapped_pages(RemotePtr start, RemotePtr end) const;

  // Guard pages (MADV_GUARD_INSTALL) in that range, likewise. None before Linux 6.15, where nothing
  // tells them from swapped pages.
  std::vector<PageRun> guard_pages(RemotePtr start, RemotePtr end) const;

 private:
  using EntryTest = bool (*)(std::uint64_t entry);
  std::uint64_t never_private(Of of = Of::kAny) const;
  struct Query {
    std::uint64_t wanted;  // pages of any of these categories
    std::uint64_t absent;  // of none of these
    std::uint64_t needed;  // and of all of these
    std::uint64_t told;    // what is to be known of each
    std::uint64_t flags = 0;
  };
  template <class OnRun>
  void scan_each(RemotePtr start, RemotePtr end, const Query& query, OnRun&& on_run) const;
  std::vector<PageRun> scan(RemotePtr start, RemotePtr end, std::uint64_t wanted,
                            std::uint64_t absent, std::uint64_t needed = 0) const;
  std::vector<PageRun> read_entries(RemotePtr start, RemotePtr end, EntryTest test) const;

  pid_t pid_;
  PageMapAbi abi_;
  UniqueFd fd_;
};

// The pages of a shared mapping that its file has data for, whoever wrote them: by SEEK_DATA on
// the file of the mapping. Where that may not be opened (see map_files_path()), the whole VMA:
// right, but to be read in full, and reading makes the kernel fill the holes.
std::vector<PageRun> shared_pages(pid_t pid, const Vma& vma);

// The same for a file that is open already and mapped at `vma`, such as a memfd.
std::vector<PageRun> shared_pages_of_file(const UniqueFd& file, const Vma& vma);

}  // namespace telefork::kernel
