// A personality of its own.
#include <sys/personality.h>

#include "victim.h"

int main() {
  constexpr unsigned long kWanted = ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS;
  VICTIM_CHECK(personality(kWanted) >= 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(personality(0xffffffff) == static_cast<int>(kWanted));
  victim_pass();
}
