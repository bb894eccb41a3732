#include "tracee/change_wait.h"

#include <cerrno>
#include <utility>

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::tracee {

ChangeWait::ChangeWait(Patience patience) : patience_(std::move(patience)) {
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

bool ChangeWait::await() {
  int left = -1;
  if (patience_.limit) {
    auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start_);
    if (passed >= *patience_.limit) return false;
    left = static_cast<int>((*patience_.limit - passed).count());
  }
  pollfd entries[] = {{fd_.get(), POLLIN, 0}, {patience_.interrupt_fd, POLLIN, 0}};
  if (::poll(entries, 2, left) < 0 && errno != EINTR) throw_errno("waiting for a traced process");
  signalfd_siginfo info;
  while (::read(fd_.get(), &info, sizeof(info)) > 0) taken_ = true;
  interrupted_ = entries[1].revents != 0 && patience_.interrupted();
  return !interrupted_;
}

}  // namespace telefork::tracee
