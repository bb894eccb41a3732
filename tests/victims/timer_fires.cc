// A periodic timer that fires all the while, and goes on.
#include <sys/time.h>

#include "victim.h"

static volatile int count = 0;

int main() {
  struct sigaction action {};
  action.sa_handler = [](int) { count = count + 1; };
  action.sa_flags = SA_RESTART;
  VICTIM_CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
  const itimerval often{{0, 2000}, {0, 2000}};
  VICTIM_CHECK(setitimer(ITIMER_REAL, &often, nullptr) == 0);
  victim_ready();
  victim_await_signal();
  const int before = count;
  while (count < before + 3) pause();
  victim_pass();
}
