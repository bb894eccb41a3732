// Other processes by descriptors: pidfd_open(2), pidfd_getfd(2).
#pragma once

#include <sys/types.h>

#include "base/unique_fd.h"

namespace telefork::kernel {

// Readable when the process has ended, traced or not. Throws, kGone where there is none.
UniqueFd open_pidfd(pid_t pid);
// A descriptor of another process, sharing its open file description; needs what ptrace needs.
// Empty where the process has none of that number.
UniqueFd take_fd(pid_t pid, int fd);
// Empty where it is not to be had, for whatever reason.
UniqueFd try_take_fd(pid_t pid, int fd);

}  // namespace telefork::kernel
