// Shared memory of System V that is a process's, or a tree's, alone: all that has it attached goes
// along, so that it can be made anew where they go.
#pragma once

#include <cstdint>
#include <optional>
#include <set>

#include <sys/types.h>

#include "kernel/procfs_maps.h"

namespace telefork::capture {

struct Segment {
  int id = 0;
  std::uint32_t key = 0;
  std::uint64_t size = 0;
  std::uint32_t mode = 0;  // permissions, and SHM_DEST
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
};

// Of a mapping of it. Nothing where somebody outside of `movers` has it attached, where it is
// mapped in part or locked by shmctl(2), or where this user may not look at it.
std::optional<Segment> find_own_segment(const kernel::Vma& vma, const std::set<pid_t>& movers);

}  // namespace telefork::capture
