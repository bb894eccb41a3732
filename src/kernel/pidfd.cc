#include "kernel/pidfd.h"

#include <cerrno>

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::kernel {

UniqueFd open_pidfd(pid_t pid) {
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) throw_errno(fmt::format("opening process {}", pid));
  return process;
}

UniqueFd take_fd(pid_t pid, int fd) {
  UniqueFd process = open_pidfd(pid);
  int taken = static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0));
  if (taken < 0 && errno != EBADF) throw_errno(fmt::format("taking fd {} of process {}", fd, pid));
  return UniqueFd(taken);
}

UniqueFd try_take_fd(pid_t pid, int fd) {
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
}

}  // namespace telefork::kernel
