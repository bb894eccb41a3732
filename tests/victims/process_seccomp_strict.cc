// Strict mode, which leaves nothing but reading, writing, and the end.
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "victim.h"

static volatile sig_atomic_t awake = 0;

int main() {
  signal(SIGTERM, [](int) { awake = 1; });
  VICTIM_REFUSED_TO_PLAIN_USERS("it runs under seccomp");
  VICTIM_ENDS_WITH_SESSION("where that is killed the pid ends by SIGKILL");
  const sigset_t term = victim_signals(SIGTERM);
  VICTIM_CHECK(sigprocmask(SIG_UNBLOCK, &term, nullptr) == 0);
  VICTIM_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
  victim_ready();
  while (awake == 0) {
  }
  victim_say("pass\n");
  syscall(SYS_exit, 0);
}
