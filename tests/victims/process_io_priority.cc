// A priority of input and output.
#include "victim.h"

int main() {
  constexpr int kIdle = 3 << 13;  // IOPRIO_CLASS_IDLE
  VICTIM_CHECK(syscall(SYS_ioprio_set, 1, 0, kIdle) == 0);
  VICTIM_LOSES("the I/O priority");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(syscall(SYS_ioprio_get, 1, 0) == kIdle);
  victim_pass();
}
