#include "session/common_end.h"

#include <csignal>
#include <ctime>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::session {

CommonEnd::CommonEnd() : file_(::memfd_create("telefork", MFD_CLOEXEC)) {
  if (!file_) throw_errno("making a memory file", Code::kResources);
}

void CommonEnd::set_lease(std::chrono::nanoseconds lease) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(lease);
  const timespec value{seconds.count(), (lease - seconds).count()};
  if (::pwrite(file_.get(), &value, sizeof(value), 0) != sizeof(value))
    throw_errno("setting a common lease");
}

void CommonEnd::decide() {
  if (::lseek(file_.get(), SIGKILL, SEEK_SET) != SIGKILL) throw_errno("deciding on an end");
  decided_ = true;
}

tracee::SyscallProgram CommonEnd::undo(int number, pid_t pid, RemotePtr lease) {
  tracee::SyscallProgram undo;
  const tracee::Result signal = undo.undo(SYS_lseek, {number, 0, SEEK_CUR});
  undo.undo(SYS_kill, {pid, signal});
  undo.undo(SYS_pread64, {number, lease, sizeof(timespec), 0});
  undo.undo(SYS_close, {number});
  return undo;
}

}  // namespace telefork::session
