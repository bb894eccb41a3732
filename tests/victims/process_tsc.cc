// A process that may not read the time stamp counter (PR_SET_TSC).
#include <sys/prctl.h>

#include "victim.h"

int main() {
  if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV) != 0) victim_skip("PR_SET_TSC");
  VICTIM_LOSES("PR_SET_TSC");
  victim_ready();
  victim_wait();
  int now = 0;
  VICTIM_CHECK(prctl(PR_GET_TSC, &now) == 0 && now == PR_TSC_SIGSEGV);
  victim_pass();
}
