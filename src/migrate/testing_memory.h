// For tests: memory of the victims.
#pragma once

#include <cstddef>
#include <cstdint>

#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/remote_ptr.h"
#include "kernel/procfs_maps.h"
#include "migrate/round_trip.h"

namespace telefork::migrate {

inline char* map(std::size_t size, int protection = PROT_READ | PROT_WRITE,
                 int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1, off_t offset = 0) {
  void* at = ::mmap(nullptr, size, protection, flags, fd, offset);
  VERIFY(at != MAP_FAILED);
  return static_cast<char*>(at);
}

// Of this process; empty: nothing is mapped there.
inline kernel::Vma vma_at(const void* address) {
  const RemotePtr at(reinterpret_cast<std::uint64_t>(address));
  for (const kernel::Vma& vma : kernel::read_smaps(::getpid())) {
    if (vma.start <= at && at < vma.end) return vma;
  }
  return {};
}

}  // namespace telefork::migrate
