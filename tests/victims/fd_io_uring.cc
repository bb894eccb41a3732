// An io_uring whose ring is mapped by nobody.
#include <linux/io_uring.h>

#include "victim.h"

int main() {
  io_uring_params parameters{};
  const long ring = syscall(SYS_io_uring_setup, 4, &parameters);
  if (ring < 0) victim_skip("io_uring");
  VICTIM_REFUSED("this kind of descriptor cannot move yet");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(syscall(SYS_io_uring_enter, ring, 0, 0, 0, nullptr, 0) == 0);
  victim_pass();
}
