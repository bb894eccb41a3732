// Looks for guard pages (MADV_GUARD_INSTALL) in all of a process while something else is done with
// it. Where the kernel does not say which VMAs may have some (before the flag gu) that is a walk of
// all its page tables.
//
//     GuardScan scan(pid, abi, kernel::read_maps(pid));   // a thread begins
//     ...
//     scan.finish()                                       // what it has found
//
// The process stands still. Its memory map may be changed meanwhile, where no guard pages are: the
// walk is in pieces, so that who changes it does not wait for all of it (mmap_lock). Owned by one
// thread.
#pragma once

#include <vector>

#include <sys/types.h>

#include "base/beside.h"
#include "kernel/pagemap.h"
#include "kernel/procfs_maps.h"

namespace telefork::capture {

class GuardScan {
 public:
  GuardScan(pid_t pid, kernel::PageMapAbi abi, std::vector<kernel::Vma> map)
      : map_(pid, abi), vmas_(std::move(map)), beside_([this] { scan(); }) {}

  // Rising. Once.
  std::vector<kernel::PageRun> finish() {
    beside_.finish();
    return std::move(guards_);
  }

 private:
  void scan();

  kernel::PageMap map_;
  std::vector<kernel::Vma> vmas_;
  std::vector<kernel::PageRun> guards_;
  Beside beside_;  // last: it uses all of these
};

}  // namespace telefork::capture
