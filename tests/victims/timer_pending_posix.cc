// A repeating timer whose signal is pending: that one comes, and then the next.
#include <ctime>

#include "victim.h"

int main() {
  const sigset_t set = victim_signals(SIGRTMIN);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN;
  event.sigev_value.sival_int = 9;
  timer_t timer;
  VICTIM_CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  const itimerspec often{{0, 1'000'000}, {0, 1'000'000}};
  VICTIM_CHECK(timer_settime(timer, 0, &often, nullptr) == 0);
  timespec rest{0, 20'000'000};
  while (nanosleep(&rest, &rest) != 0) {
  }
  victim_ready();
  victim_wait();
  siginfo_t info{};
  VICTIM_CHECK(sigwaitinfo(&set, &info) == SIGRTMIN && info.si_value.sival_int == 9);
  VICTIM_CHECK(info.si_code == SI_TIMER);
  VICTIM_CHECK(sigwaitinfo(&set, &info) == SIGRTMIN && timer_delete(timer) == 0);
  victim_pass();
}
