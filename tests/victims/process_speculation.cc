// Speculation that was switched off (PR_SET_SPECULATION_CTRL).
#include <sys/prctl.h>

#include "victim.h"

int main() {
  if (prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE, 0, 0) != 0) {
    victim_skip("PR_SET_SPECULATION_CTRL");
  }
  VICTIM_LOSES("PR_SET_SPECULATION_CTRL");
  victim_ready();
  victim_wait();
  const int now = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0, 0, 0);
  VICTIM_CHECK((now & PR_SPEC_DISABLE) != 0);
  victim_pass();
}
