#include "session/signal_fd.h"

#include <csignal>

#include <unistd.h>

#include "base/error.h"

namespace telefork::session {

SignalFd::SignalFd(std::span<const int> signals) {
  sigset_t set;
  ::sigemptyset(&set);
  for (int signal : signals) ::sigaddset(&set, signal);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  int fd = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) throw_errno("making a signalfd");
  fd_.reset(fd);
}

std::optional<signalfd_siginfo> SignalFd::try_read() {
  signalfd_siginfo info{};
  ssize_t count = ::read(fd_.get(), &info, sizeof(info));
  if (count == static_cast<ssize_t>(sizeof(info))) return info;
  return std::nullopt;
}

}  // namespace telefork::session
