// A pidfd of the process itself.
#include "victim.h"

int main() {
  const long fd = syscall(SYS_pidfd_open, getpid(), 0);
  VICTIM_CHECK(fd >= 0);
  const sigset_t set = victim_signals(SIGUSR1);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(syscall(SYS_pidfd_send_signal, fd, SIGUSR1, nullptr, 0) == 0);
  VICTIM_CHECK(sigwaitinfo(&set, nullptr) == SIGUSR1);
  victim_pass();
}
