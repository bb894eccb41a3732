// POSIX timers with ids: one that is armed far off, one that repeats, one that is not armed.
#include <ctime>

#include "victim.h"

static timer_t make_timer(int signal, int value) {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = signal;
  event.sigev_value.sival_int = value;
  timer_t timer;
  VICTIM_CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  return timer;
}

int main() {
  const sigset_t set = victim_signals(SIGRTMIN);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  const timer_t gap = make_timer(SIGRTMIN, 0);
  const timer_t far_off = make_timer(SIGRTMIN, 1);
  const timer_t unarmed = make_timer(SIGRTMIN, 2);
  VICTIM_CHECK(timer_delete(gap) == 0);
  const itimerspec far_time{{500, 0}, {5000, 0}};
  VICTIM_CHECK(timer_settime(far_off, 0, &far_time, nullptr) == 0);
  victim_ready();
  victim_wait();
  itimerspec left{};
  VICTIM_CHECK(timer_gettime(far_off, &left) == 0 && left.it_interval.tv_sec == 500);
  VICTIM_CHECK(left.it_value.tv_sec > 4000 && left.it_value.tv_sec <= 5000);
  VICTIM_CHECK(timer_gettime(unarmed, &left) == 0 && left.it_value.tv_sec == 0);
  const itimerspec soon{{0, 0}, {0, 1}};
  VICTIM_CHECK(timer_settime(unarmed, 0, &soon, nullptr) == 0);
  siginfo_t info{};
  VICTIM_CHECK(sigwaitinfo(&set, &info) == SIGRTMIN);
  VICTIM_CHECK(info.si_value.sival_int == 2 && info.si_code == SI_TIMER);
  VICTIM_CHECK(timer_delete(far_off) == 0 && timer_delete(unarmed) == 0);
  victim_pass();
}
