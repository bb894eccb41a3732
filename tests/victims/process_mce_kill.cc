// What happens to it where memory breaks (PR_MCE_KILL).
#include <sys/prctl.h>

#include "victim.h"

int main() {
  if (prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) != 0) victim_skip("PR_MCE_KILL");
  VICTIM_LOSES("PR_MCE_KILL");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY);
  victim_pass();
}
