// Timer descriptors: one far off, and one with expirations that nobody has read.
#include <poll.h>
#include <sys/timerfd.h>

#include "victim.h"

int main() {
  const int far_off = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  const int expired = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
  const itimerspec hours{{100, 0}, {7200, 0}};
  const itimerspec now{{0, 0}, {0, 1}};
  VICTIM_CHECK(timerfd_settime(far_off, 0, &hours, nullptr) == 0);
  VICTIM_CHECK(timerfd_settime(expired, 0, &now, nullptr) == 0);
  pollfd entry{expired, POLLIN, 0};
  VICTIM_CHECK(poll(&entry, 1, -1) == 1);
  victim_ready();
  victim_wait();
  unsigned long count = 0;
  VICTIM_CHECK(read(expired, &count, sizeof count) == sizeof count && count == 1);
  itimerspec left{};
  VICTIM_CHECK(timerfd_gettime(far_off, &left) == 0 && left.it_interval.tv_sec == 100);
  VICTIM_CHECK(left.it_value.tv_sec > 3600 && left.it_value.tv_sec <= 7200);
  VICTIM_CHECK(read(far_off, &count, sizeof count) == -1 && errno == EAGAIN);
  victim_pass();
}
