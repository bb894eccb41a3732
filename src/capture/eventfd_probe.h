// Whether an eventfd is a semaphore, EFD_SEMAPHORE. A kernel before 6.5 does not tell, and one has
// to try.
#pragma once

#include <cstdint>

#include "base/unique_fd.h"

namespace telefork::capture {

// Nobody may use it meanwhile. Its count, `count`, is in the end what it was; who waits for it is
// woken, and finds that.
bool probe_semaphore(const UniqueFd& eventfd, std::uint64_t count);

}  // namespace telefork::capture
