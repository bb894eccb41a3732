// Whether two neighbours would be one VMA if nothing in their past kept them apart.
#pragma once

#include <cstdint>

#include "kernel/procfs_maps.h"

namespace telefork::kernel {

// What the kernel compares (mm/vma.c, is_mergeable_vma) of a private mapping.
struct MergeTraits {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t flags = 0;  // VmFlag bits
  int protection = 0;
  bool anonymous = false;
};

inline bool would_merge(const MergeTraits& left, const MergeTraits& right) {
  constexpr std::uint64_t kHistory =
      static_cast<std::uint64_t>(VmFlag::kSoftDirty) | static_cast<std::uint64_t>(VmFlag::kGuard);
  const bool huge = (left.flags & static_cast<std::uint64_t>(VmFlag::kHugeTlb)) != 0;
  return left.end == right.start && !huge && left.anonymous && right.anonymous &&
         left.protection == right.protection && ((left.flags ^ right.flags) & ~kHistory) == 0;
}

}  // namespace telefork::kernel
