// The locks that a thread has on its robust list (set_robust_list(2)) and that hold its id, which
// is to be another one.
//
//     head: next --> entry --> ... --> head        the word of a lock: FUTEX_WAITERS | ... | tid
//           offset of the word from its entry
//           the entry of a lock that is being taken or given back
//
// The list is the program's own and may be anything: what does not fit ends it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/remote_ptr.h"

namespace telefork::restore {

struct HeldLock {
  RemotePtr word;
  std::uint32_t value;

  std::uint32_t value_for(std::uint32_t tid) const;
};

// The 8 bytes at an address that is a multiple of 8; none: there is nothing.
using ReadWord = std::function<std::optional<std::uint64_t>(RemotePtr)>;

// `head`: of the list, or null.
std::vector<HeldLock> find_held_locks(RemotePtr head, std::uint32_t tid, const ReadWord& read);

}  // namespace telefork::restore
