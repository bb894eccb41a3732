// A counter of perf_event_open(2), which goes on counting.
#include <linux/perf_event.h>

#include "victim.h"

int main() {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.config = PERF_COUNT_SW_TASK_CLOCK;
  attributes.exclude_kernel = 1;
  const long counter = syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
  if (counter < 0) victim_skip("perf_event");
  unsigned long before = 0;
  VICTIM_CHECK(read(static_cast<int>(counter), &before, sizeof before) == sizeof before);
  VICTIM_REFUSED("this kind of descriptor cannot move yet");
  victim_ready();
  victim_wait();
  unsigned long now = 0;
  VICTIM_CHECK(read(static_cast<int>(counter), &now, sizeof now) == sizeof now && now > before);
  victim_pass();
}
