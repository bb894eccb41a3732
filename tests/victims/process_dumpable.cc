// A process that is not to be looked at.
#include <sys/prctl.h>

#include "victim.h"

int main() {
  VICTIM_CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
  VICTIM_REFUSED_TO_PLAIN_USERS("it is another user's, or protected");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(prctl(PR_GET_DUMPABLE) == 0);
  victim_pass();
}
