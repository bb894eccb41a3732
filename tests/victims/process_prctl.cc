// The settings of prctl(2) that last: name, timer slack, subreaper, THP, the signal of a parent's
// end.
#include <sys/prctl.h>

#include "victim.h"

int main() {
  VICTIM_CHECK(prctl(PR_SET_NAME, "a (name) 1 2") == 0);
  VICTIM_CHECK(prctl(PR_SET_TIMERSLACK, 123'456UL) == 0);
  VICTIM_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  VICTIM_CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
  VICTIM_CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0);
  victim_ready();
  victim_wait();
  char name[16];
  int reaper = 0;
  int signal = 0;
  VICTIM_CHECK(prctl(PR_GET_NAME, name) == 0 && std::strcmp(name, "a (name) 1 2") == 0);
  VICTIM_CHECK(prctl(PR_GET_TIMERSLACK) == 123'456);
  VICTIM_CHECK(prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0 && reaper == 1);
  VICTIM_CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
  VICTIM_CHECK(prctl(PR_GET_PDEATHSIG, &signal) == 0 && signal == SIGUSR2);
  victim_pass();
}
