// no_new_privs.
#include <sys/prctl.h>

#include "victim.h"

int main() {
  VICTIM_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
  VICTIM_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == -1);
  victim_pass();
}
