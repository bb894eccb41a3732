// Timers on clocks of every kind, without a signal, and one on an absolute time.
#include <ctime>

#include "victim.h"

int main() {
  const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_MONOTONIC,
                              CLOCK_PROCESS_CPUTIME_ID};
  timer_t timers[4];
  for (int i = 0; i < 4; ++i) {
    sigevent event{};
    event.sigev_notify = SIGEV_NONE;
    itimerspec value{{50, 0}, {900 + i, 0}};
    int flags = 0;
    if (i == 0) {
      timespec now{};
      clock_gettime(CLOCK_REALTIME, &now);
      value.it_value.tv_sec += now.tv_sec;
      flags = TIMER_ABSTIME;
    }
    VICTIM_CHECK(timer_create(clocks[i], &event, &timers[i]) == 0);
    VICTIM_CHECK(timer_settime(timers[i], flags, &value, nullptr) == 0);
  }
  victim_ready();
  victim_wait();
  for (int i = 0; i < 4; ++i) {
    itimerspec left{};
    VICTIM_CHECK(timer_gettime(timers[i], &left) == 0 && left.it_interval.tv_sec == 50);
    VICTIM_CHECK(left.it_value.tv_sec > 800 && left.it_value.tv_sec <= 900 + i);
    VICTIM_CHECK(timer_delete(timers[i]) == 0);
  }
  victim_pass();
}
