// A timer on its way through a socket and open nowhere else: nobody has a number to arm it by.
#include <sys/timerfd.h>

#include "sending.h"

int main() {
  int ends[2];
  const int timer = timerfd_create(CLOCK_MONOTONIC, 0);
  VICTIM_CHECK(timer >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  send_with(ends[0], "timer", {timer});
  VICTIM_CHECK(close(timer) == 0);
  VICTIM_REFUSED_ONCE_STOPPED("descriptors or ids were sent along with what it has not read");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(receive_with(ends[1], 16).count == 1);
  victim_pass();
}
