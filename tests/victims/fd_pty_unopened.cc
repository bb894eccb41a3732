// A pseudoterminal whose slave nobody has opened so far.
#include "victim.h"

int main() {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) victim_skip("a pseudoterminal");
  VICTIM_CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
  VICTIM_REFUSED("its slave was never opened");
  victim_ready();
  victim_wait();
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  char text[8];
  VICTIM_CHECK(slave >= 0 && write(slave, "said", 4) == 4 && read(master, text, sizeof text) == 4);
  victim_pass();
}
