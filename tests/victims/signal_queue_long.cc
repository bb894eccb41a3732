// Five hundred signals in the queue.
#include "victim.h"

int main() {
  const sigset_t set = victim_signals(SIGRTMIN);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  for (int i = 0; i < 500; ++i) VICTIM_CHECK(sigqueue(getpid(), SIGRTMIN, sigval{i}) == 0);
  victim_ready();
  victim_wait();
  siginfo_t info{};
  for (int i = 0; i < 500; ++i) {
    VICTIM_CHECK(sigwaitinfo(&set, &info) == SIGRTMIN && info.si_value.sival_int == i);
  }
  victim_pass();
}
