// A timer of CPU time that fires as the program computes.
#include <sys/time.h>

#include "victim.h"

static volatile int count = 0;

int main() {
  std::signal(SIGPROF, [](int) { count = count + 1; });
  const itimerval often{{0, 10'000}, {0, 10'000}};
  VICTIM_CHECK(setitimer(ITIMER_PROF, &often, nullptr) == 0);
  victim_ready();
  victim_await_signal();
  const int before = count;
  while (count < before + 2) {
  }
  victim_pass();
}
