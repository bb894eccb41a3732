#include "restore/robust_list.h"

#include <linux/futex.h>

namespace telefork::restore {
namespace {

constexpr std::uint64_t kWord = sizeof(std::uint64_t);
// Of an entry: a lock that hands on its priority (kernel/futex/core.c: fetch_robust_entry).
constexpr std::uint64_t kInherits = 1;

std::optional<HeldLock> find_lock(std::uint64_t entry, std::uint64_t offset, std::uint32_t tid,
                                  const ReadWord& read) {
  const std::uint64_t at = (entry & ~kInherits) + offset;
  if (at % sizeof(std::uint32_t) != 0) return std::nullopt;
  const std::uint64_t behind = at % kWord;
  std::optional<std::uint64_t> around = read(RemotePtr(at - behind));
  if (!around) return std::nullopt;
  auto value = static_cast<std::uint32_t>(*around >> (8 * behind));
  if ((value & FUTEX_TID_MASK) != tid) return std::nullopt;
  return HeldLock{RemotePtr(at), value};
}

}  // namespace

std::uint32_t HeldLock::value_for(std::uint32_t tid) const {
  return (value & ~static_cast<std::uint32_t>(FUTEX_TID_MASK)) | tid;
}

std::vector<HeldLock> find_held_locks(RemotePtr head, std::uint32_t tid, const ReadWord& read) {
  std::vector<HeldLock> locks;
  if (!head || head.value() % kWord != 0) return locks;
  std::optional<std::uint64_t> entry = read(head);
  const std::optional<std::uint64_t> offset = read(head + kWord);
  const std::optional<std::uint64_t> begun = read(head + 2 * kWord);
  if (!entry || !offset || !begun) return locks;
  auto add = [&](std::uint64_t at) {
    if (auto lock = find_lock(at, *offset, tid, read)) locks.push_back(*lock);
  };
  if (*begun != 0) add(*begun);
  for (int i = 0; i < ROBUST_LIST_LIMIT && entry; ++i) {
    const std::uint64_t at = *entry & ~kInherits;
    if (at == head.value() || at % kWord != 0) break;
    if (at != (*begun & ~kInherits)) add(at);
    entry = read(RemotePtr(at));
  }
  return locks;
}

}  // namespace telefork::restore
