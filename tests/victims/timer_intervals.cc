// The interval timers of all three kinds, far off.
#include <sys/time.h>

#include "victim.h"

int main() {
  const int kinds[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
  for (int i = 0; i < 3; ++i) {
    const itimerval value{{100 + i, 5000}, {5000 + i, 0}};
    VICTIM_CHECK(setitimer(kinds[i], &value, nullptr) == 0);
  }
  victim_ready();
  victim_wait();
  for (int i = 0; i < 3; ++i) {
    itimerval now{};
    VICTIM_CHECK(getitimer(kinds[i], &now) == 0 && now.it_interval.tv_sec == 100 + i);
    VICTIM_CHECK(now.it_value.tv_sec > 4900 && now.it_value.tv_sec <= 5000 + i);
    VICTIM_CHECK(now.it_interval.tv_usec >= 4000 && now.it_interval.tv_usec <= 9000);
  }
  victim_pass();
}
