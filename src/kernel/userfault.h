// Missing pages of a process, told to whoever can fill them in: userfaultfd(2).
//
//     Userfault faults(fd);                      // made by the process itself: userfaultfd(2)
//     faults.enlist(start, size, false);         // from now on a missing page there is a fault
//     while (auto event = faults.try_read()) ... // poll fd() for POLLIN
//     faults.copy(at, bytes, false);             // whoever waits for it goes on
//
// Besides faults it tells what the process does to its memory while pages are missing: fork,
// mremap, munmap and madvise. The process waits until that has been read (kernel:
// fs/userfaultfd.c), so that nobody may read it who waits for the process. Faults of the kernel on
// its behalf, in a system call, are told too; that takes CAP_SYS_PTRACE where the descriptor is
// made, or vm.unprivileged_userfaultfd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/remote_ptr.h"
#include "base/unique_fd.h"

namespace telefork::kernel {

class Userfault {
 public:
  struct Event {
    enum class Kind {
      kFault,     // somebody waits for the page at `start`
      kForked,    // `child` watches the same ranges of a new process
      kMoved,     // [start, end) lies at `to` now, and whoever touches the old place gets zeros
      kDropped,   // madvise(2): the pages of [start, end) have lost what they held
      kUnmapped,  // nothing is mapped at [start, end) any more, or something else
    };
    Kind kind;
    RemotePtr start;
    RemotePtr end;
    RemotePtr to;
    UniqueFd child;
  };
  enum class Outcome {
    kDone,      // all of it
    kPresent,   // the page behind what was done is there already
    kNotThere,  // nothing is mapped there that is enlisted
    kChanging,  // the process changes its map: its event comes first
    kOver,      // the process has ended, or has another memory (exec)
  };
  struct Placed {
    Outcome outcome;
    std::uint64_t bytes;  // so many were done
  };

  // Flags for userfaultfd(2), in the process.
  static int flags();
  // Throws kUnsupported where the kernel lacks what is needed. `watches_writes`: WriteWatch may use
  // a duplicate of it (Linux 6.7).
  Userfault(UniqueFd fd, bool watches_writes);
  // That of a child.
  explicit Userfault(UniqueFd child) : fd_(std::move(child)) {}

  int fd() const { return fd_.get(); }
  // Another descriptor of it.
  UniqueFd duplicate() const { return fd_.duplicate(); }

  // Whole pages of one private anonymous mapping.
  void enlist(RemotePtr start, std::uint64_t size, bool watch_writes) const;
  std::optional<Event> try_read() const;
  // Whole pages, where none are, and wakes whoever waits for them. `protect`: WriteWatch sees them
  // as not written.
  Placed copy(RemotePtr at, std::span<const std::byte> bytes, bool protect) const;
  // The same of zeros, which take no memory.
  Placed fill_with_zeros(RemotePtr at, std::uint64_t size) const;
  // Whether there is an event of which the process still waits to be rid (mmap_changing in
  // fs/userfaultfd.c): else all that has happened to its map was read.
  bool is_changing() const;
  // Who waits there looks again.
  void wake(RemotePtr at, std::uint64_t size) const;

 private:
  UniqueFd fd_;
};

// Why a process cannot run here while its memory has not come yet.
enum class FaultBar {
  kNone,
  kUser,    // a plain user's, and the kernel's own faults are not told to those
  kKernel,  // the kernel lacks what is needed (Linux 6.7)
};
// Of processes that this process makes, as the user that it is or as another one, who has none of
// its capabilities then.
FaultBar find_fault_bar(bool as_other_user);
// Why, and what helps. Empty of kNone.
const char* say_bar(FaultBar bar);

}  // namespace telefork::kernel
