// Capabilities: permitted, effective, inheritable, ambient, and the bounding set.
#include <linux/capability.h>
#include <sys/prctl.h>

#include "victim.h"

static __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};

int main() {
  if (geteuid() != 0) victim_skip("root");
  __user_cap_data_struct sets[2] = {};
  VICTIM_CHECK(syscall(SYS_capget, &header, sets) == 0);
  sets[0].inheritable = 1U << CAP_KILL;
  sets[0].effective &= ~(1U << CAP_CHOWN);
  VICTIM_CHECK(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT) == 0);
  VICTIM_CHECK(syscall(SYS_capset, &header, sets) == 0);
  VICTIM_CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
  // It has dropped one from its bounding set that it still has.
  VICTIM_REFUSED_BY_HOME("capabilities there that its deputy has lost");
  victim_ready();
  victim_wait();
  __user_cap_data_struct now[2] = {};
  VICTIM_CHECK(syscall(SYS_capget, &header, now) == 0);
  VICTIM_CHECK(std::memcmp(now, sets, sizeof now) == 0);
  VICTIM_CHECK(prctl(PR_CAPBSET_READ, CAP_SYS_BOOT) == 0 && prctl(PR_CAPBSET_READ, CAP_KILL) == 1);
  VICTIM_CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0) == 1);
  victim_pass();
}
