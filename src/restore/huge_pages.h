// Memory made present as huge pages, ahead of what comes to lie in it.
//
// Whole huge pages are collapsed from a first small page (madvise(2), MADV_COLLAPSE), which needs
// no MADV_HUGEPAGE: that flag would stay with the VMA. Each call has every processor put its newest
// pages in order and waits for all of them (lru_add_drain_all in mm/khugepaged.c): 0.1 ms where
// they are idle, 5 ms and more where they are busy. So one call does for as many pages as may be.
#pragma once

#include <cstdint>

#include "base/remote_ptr.h"
#include "tracee/syscall_program.h"

namespace telefork::restore {

class HugePages {
 public:
  // Steps for those that lie whole in [at, at + size); `ahead` more bytes behind it will be needed
  // soon. What an earlier step has made is left out.
  void add(RemotePtr at, std::uint64_t size, std::uint64_t ahead, tracee::SyscallProgram& program);

 private:
  RemotePtr made_from_;
  RemotePtr made_until_;
};

}  // namespace telefork::restore
