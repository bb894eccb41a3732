// A user namespace of its own.
#include "victim.h"

int main() {
  if (unshare(CLONE_NEWUSER) != 0) victim_skip("user namespaces");
  VICTIM_REFUSED("it is in another user namespace than telefork");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(getuid() == 65534);
  victim_pass();
}
