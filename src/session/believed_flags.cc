#include "session/believed_flags.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::session {
namespace {

using kernel::Vma;
using kernel::VmFlag;

constexpr std::uint64_t bit(VmFlag flag) { return static_cast<std::uint64_t>(flag); }

// What /proc/PID/maps tells of a mapping without a walk.
constexpr std::uint64_t kOfMaps =
    bit(VmFlag::kRead) | bit(VmFlag::kWrite) | bit(VmFlag::kExecute) | bit(VmFlag::kShared);
// What the kernel keeps for itself, the keeper's watch, and guard pages, which are looked for
// everywhere where none is believed to be.
constexpr std::uint64_t kPassedOver =
    bit(VmFlag::kAccount) | bit(VmFlag::kSoftDirty) | bit(VmFlag::kUffdWp) | bit(VmFlag::kGuard);

bool is_kernels_own(const Vma& vma) { return vma.is_vdso_or_vvar() || vma.is_vsyscall(); }

std::uint64_t flags_of_maps(const Vma& vma) {
  return (vma.read ? bit(VmFlag::kRead) : 0) | (vma.write ? bit(VmFlag::kWrite) : 0) |
         (vma.execute ? bit(VmFlag::kExecute) : 0) | (vma.shared ? bit(VmFlag::kShared) : 0);
}

// Of all that meets [start, end) the first.
const Vma* find_at(const std::vector<Vma>& map, const Vma& wanted) {
  auto found = std::partition_point(
      map.begin(), map.end(), [&wanted](const Vma& before) { return before.end <= wanted.start; });
  return found == map.end() || found->start >= wanted.end ? nullptr : &*found;
}

bool is_as_believed(const Vma& believed, const Vma& is) {
  return ((believed.flags ^ is.flags) & ~kPassedOver) == 0 && is.unknown_flags.empty() &&
         is.protection_key == 0;
}

}  // namespace

bool believe_flags(const std::vector<Vma>& known, std::vector<Vma>& map) {
  constexpr std::uint64_t kOfNew =
      bit(VmFlag::kMayRead) | bit(VmFlag::kMayWrite) | bit(VmFlag::kMayExecute);
  for (Vma& vma : map) {
    if (is_kernels_own(vma)) continue;
    if (vma.shared && vma.is_file()) return false;  // what it may do is more than its flags
    const Vma* before = find_at(known, vma);
    const bool same_kind = before != nullptr && before->shared == vma.shared;
    if (!same_kind && !vma.is_anonymous()) return false;
    const std::uint64_t flags = same_kind ? before->flags : kOfNew;
    vma.flags = (flags & ~(kOfMaps | kPassedOver)) | flags_of_maps(vma);
  }
  return true;
}

std::vector<std::pair<std::size_t, Vma>> find_other_flags(
    const std::vector<Vma>& smaps, std::span<const capture::Mapping> mappings) {
  std::vector<std::pair<std::size_t, Vma>> others;
  for (std::size_t i = 0; i < mappings.size(); ++i) {
    const Vma& believed = mappings[i].vma;
    if (is_kernels_own(believed)) continue;
    // A stub that has come meanwhile may have become one with its neighbour.
    const Vma* found = find_at(smaps, believed);
    if (found == nullptr || found->start > believed.start || found->end < believed.end) {
      throw Error(Code::kFailed,
                  fmt::format("the mapping {:#x}-{:#x} of a process that stands still has changed",
                              believed.start.value(), believed.end.value()));
    }
    if (is_as_believed(believed, *found)) continue;
    Vma is = believed;
    is.flags = found->flags;
    is.unknown_flags = found->unknown_flags;
    is.protection_key = found->protection_key;
    others.emplace_back(i, std::move(is));
  }
  return others;
}

}  // namespace telefork::session
