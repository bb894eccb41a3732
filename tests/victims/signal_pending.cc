// Signals that wait for the process and for its thread, with what is known of them.
#include "victim.h"

int main() {
  sigset_t set = victim_signals(SIGUSR1);
  sigaddset(&set, SIGUSR2);
  sigaddset(&set, SIGINT);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  VICTIM_CHECK(kill(getpid(), SIGUSR1) == 0 && kill(getpid(), SIGUSR1) == 0);
  VICTIM_CHECK(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2) == 0);
  victim_ready();
  victim_wait();
  sigset_t pending;
  siginfo_t info{};
  const timespec at_once{};
  VICTIM_CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1));
  VICTIM_CHECK(sigismember(&pending, SIGUSR2) && !sigismember(&pending, SIGINT));
  const sigset_t first = victim_signals(SIGUSR1);
  VICTIM_CHECK(sigtimedwait(&first, &info, &at_once) == SIGUSR1 && info.si_code == SI_USER);
  VICTIM_CHECK(info.si_pid == getpid() && info.si_uid == getuid());
  VICTIM_CHECK(sigtimedwait(&first, &info, &at_once) == -1 && errno == EAGAIN);
  const sigset_t second = victim_signals(SIGUSR2);
  // By the kernel's call: the C library's says SI_USER in the place of SI_TKILL.
  VICTIM_CHECK(syscall(SYS_rt_sigtimedwait, &second, &info, &at_once, 8) == SIGUSR2);
  VICTIM_CHECK(info.si_code == SI_TKILL && info.si_pid == getpid());
  victim_pass();
}
