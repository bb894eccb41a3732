// An alarm, and how many seconds it has left.
#include "victim.h"

int main() {
  VICTIM_CHECK(alarm(3000) == 0);
  victim_ready();
  victim_wait();
  const unsigned left = alarm(0);
  VICTIM_CHECK(left > 2900 && left <= 3000);
  victim_pass();
}
