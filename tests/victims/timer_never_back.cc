// Clocks never go back, and the wall clock agrees with the monotonic one.
#include <ctime>

#include "victim.h"

static double seconds(clockid_t clock) {
  timespec now{};
  VICTIM_CHECK(clock_gettime(clock, &now) == 0);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

int main() {
  const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME,
                              CLOCK_MONOTONIC_COARSE};
  double before[5];
  for (int i = 0; i < 5; ++i) before[i] = seconds(clocks[i]);
  victim_ready();
  victim_wait();
  for (int i = 0; i < 5; ++i) VICTIM_CHECK(seconds(clocks[i]) >= before[i]);
  const double wall = seconds(CLOCK_REALTIME) - before[3];
  const double monotonic = seconds(CLOCK_MONOTONIC) - before[0];
  VICTIM_CHECK(wall - monotonic < 1 && monotonic - wall < 1);
  victim_pass();
}
