// An interval timer whose signal is pending: the kernel arms it anew only when that is taken.
#include <sys/time.h>

#include "victim.h"

int main() {
  const sigset_t set = victim_signals(SIGALRM);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  const itimerval often{{0, 1000}, {0, 1000}};
  VICTIM_CHECK(setitimer(ITIMER_REAL, &often, nullptr) == 0);
  sigset_t pending;
  do {
    VICTIM_CHECK(sigpending(&pending) == 0);
  } while (!sigismember(&pending, SIGALRM));
  victim_ready();
  victim_wait();
  itimerval now{};
  for (int i = 0; i < 3; ++i) VICTIM_CHECK(sigwaitinfo(&set, nullptr) == SIGALRM);
  VICTIM_CHECK(getitimer(ITIMER_REAL, &now) == 0 && now.it_interval.tv_usec >= 1000);
  victim_pass();
}
