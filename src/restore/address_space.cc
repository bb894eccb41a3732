#include "restore/address_space.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::restore {
namespace {
// The middle of what 47 bits give a program: far above a program linked to a fixed address and its
// heap, far below where the kernel puts libraries and stacks.
constexpr std::uint64_t kFirst = std::uint64_t{1} << 40;
constexpr std::uint64_t kLast = (std::uint64_t{1} << 47) - kHugePageSize;
}  // namespace

void AddressSpace::take(RemotePtr start, RemotePtr end) {
  std::uint64_t from = start.value();
  std::uint64_t to = end.value();
  TELEFORK_ASSERT(from < to);
  auto next = taken_.upper_bound(from);
  if (next != taken_.begin() && std::prev(next)->second >= from) --next;
  while (next != taken_.end() && next->first <= to) {
    from = std::min(from, next->first);
    to = std::max(to, next->second);
    next = taken_.erase(next);
  }
  taken_[from] = to;
}

bool AddressSpace::is_free(RemotePtr start, RemotePtr end) const {
  auto next = taken_.upper_bound(start.value());
  if (next != taken_.end() && next->first < end.value()) return false;
  return next == taken_.begin() || std::prev(next)->second <= start.value();
}

RemotePtr AddressSpace::allocate(std::uint64_t size, RemotePtr congruent, std::uint64_t alignment) {
  std::uint64_t offset = congruent.value() % alignment;
  std::uint64_t candidate = kFirst + kGap;
  auto next = taken_.upper_bound(candidate);
  if (next != taken_.begin()) candidate = std::max(candidate, std::prev(next)->second + kGap);
  for (;; ++next) {
    std::uint64_t at = round_up(candidate, alignment) + offset;
    std::uint64_t limit = next == taken_.end() ? kLast : std::min(kLast, next->first);
    if (size < kLast && at + size + kGap <= limit) {
      take(RemotePtr(at), RemotePtr(at + size));
      return RemotePtr(at);
    }
    if (next == taken_.end() || next->first >= kLast) break;
    candidate = std::max(candidate, next->second + kGap);
  }
  throw Error(Code::kResources, fmt::format("finding room for {} bytes in the address space", size),
              ENOMEM);
}

}  // namespace telefork::restore
