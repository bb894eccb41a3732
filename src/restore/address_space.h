// Which parts of a process's address space are taken, now or later, and where there is room.
//
// While a process is restored, three things share one address space: what the blank process still
// is, what the guest will be, and what is needed in between (the stub, staging). None may lie in
// the way of another. Pure.
#pragma once

#include <cstdint>
#include <map>

#include "base/remote_ptr.h"

namespace telefork::restore {

class AddressSpace {
 public:
  // [start, end) is taken; it may overlap what is taken already.
  void take(RemotePtr start, RemotePtr end);
  // A free range of `size` bytes, at least kGap away from everything, now taken. Its address is
  // `congruent` modulo `alignment`, so that huge pages put there can be moved to that address as
  // they are. Throws kResources when there is none.
  RemotePtr allocate(std::uint64_t size, RemotePtr congruent,
                     std::uint64_t alignment = kHugePageSize);
  bool is_free(RemotePtr start, RemotePtr end) const;

  // A stack must not grow into a neighbour (vm.heap-stack-gap, mm/mmap.c stack_guard_gap: 256
  // pages).
  static constexpr std::uint64_t kGap = 2 * 1024 * 1024;

 private:
  std::map<std::uint64_t, std::uint64_t> taken_;  // start -> end, never touching each other
};

}  // namespace telefork::restore
