// A signal descriptor, and a signal that waits in it.
#include <sys/signalfd.h>

#include "victim.h"

int main() {
  const sigset_t set = victim_signals(SIGUSR1);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  const int fd = signalfd(-1, &set, SFD_NONBLOCK);
  VICTIM_CHECK(fd >= 0 && sigqueue(getpid(), SIGUSR1, sigval{42}) == 0);
  victim_ready();
  victim_wait();
  signalfd_siginfo info{};
  VICTIM_CHECK(read(fd, &info, sizeof info) == sizeof info);
  VICTIM_CHECK(info.ssi_signo == SIGUSR1 && info.ssi_int == 42);
  VICTIM_CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN);
  victim_pass();
}
