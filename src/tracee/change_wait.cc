#include "tracee/change_wait.h"

#include <cerrno>

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::tracee {

ChangeWait::ChangeWait() {
  sigset_t changes;
  ::sigemptyset(&changes);
  ::sigaddset(&changes, SIGCHLD);
  fd_.reset(::signalfd(-1, &changes, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd_) throw_errno("making a signalfd");
  ::pthread_sigmask(SIG_BLOCK, &changes, &mask_before_);
}

ChangeWait::~ChangeWait() {
  if (taken_ && ::sigismember(&mask_before_, SIGCHLD) == 1) ::kill(::getpid(), SIGCHLD);
  ::pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
}

void ChangeWait::await() {
  pollfd entries[] = {{fd_.get(), POLLIN, 0}};
  if (::poll(entries, 1, -1) < 0 && errno != EINTR) throw_errno("waiting for a traced process");
  signalfd_siginfo info;
  while (::read(fd_.get(), &info, sizeof(info)) > 0) taken_ = true;
}

}  // namespace telefork::tracee
