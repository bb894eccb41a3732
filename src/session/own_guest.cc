#include "session/own_guest.h"

#include <cerrno>
#include <csignal>
#include <cstring>

#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "net/stream.h"

namespace telefork::session {
namespace {

void stop_by(int signal) {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, signal);
  ::raise(signal);
  if (signal == SIGSTOP) return;
  // Its disposition is the default: it stops us here, unless our group has nobody to continue it.
  ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

void forward(pid_t guest, const signalfd_siginfo& info) {
  auto number = static_cast<int>(info.ssi_signo);
  if (number == SIGCHLD) return;
  // The terminal's went to the whole group; the guest's own to its group need not come back.
  if (info.ssi_code == SI_KERNEL || static_cast<pid_t>(info.ssi_pid) == guest) return;
  if (info.ssi_code == SI_QUEUE) {
    siginfo_t raw{};
    raw.si_signo = number;
    raw.si_code = SI_QUEUE;
    raw.si_pid = static_cast<pid_t>(info.ssi_pid);
    raw.si_uid = info.ssi_uid;
    raw.si_value.sival_ptr = reinterpret_cast<void*>(info.ssi_ptr);
    if (::syscall(SYS_rt_sigqueueinfo, guest, number, &raw) == 0) return;
  }
  ::kill(guest, number);
}

}  // namespace

std::uint64_t ignored_signals() {
  std::uint64_t ignored = 0;
  for (int signal = 1; signal <= 64; ++signal) {
    struct sigaction action {};
    if (signal == SIGPIPE || ::sigaction(signal, nullptr, &action) != 0) continue;
    if (action.sa_handler == SIG_IGN) ignored |= std::uint64_t{1} << (signal - 1);
  }
  return ignored;
}

std::vector<int> forwarded_signals(std::uint64_t ignored) {
  std::vector<int> signals;
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    bool libc = signal > 31 && signal < SIGRTMIN;
    bool fault = signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE ||
                 signal == SIGTRAP || signal == SIGABRT || signal == SIGSYS || signal == SIGPIPE;
    if (libc || fault || signal == SIGKILL || signal == SIGSTOP) continue;
    if (signal != SIGCHLD && (ignored >> (signal - 1) & 1) != 0) continue;
    signals.push_back(signal);
  }
  return signals;
}

int supervise_own_guest(pid_t guest, SignalFd& signals) {
  for (;;) {
    for (;;) {
      int status = 0;
      pid_t changed = ::waitpid(guest, &status, WNOHANG | WUNTRACED | __WALL);
      if (changed < 0 && errno != EINTR) throw_errno("waiting for the guest");
      if (changed <= 0) break;
      if (!WIFSTOPPED(status)) return status;
      stop_by(WSTOPSIG(status));
    }
    pollfd entry{signals.fd(), POLLIN, 0};
    net::poll_until({&entry, 1}, net::Deadline::never());
    while (auto signal = signals.try_read()) forward(guest, *signal);
  }
}

}  // namespace telefork::session
