// A sandbox by landlock(7): what it forbids stays forbidden.
#include <linux/landlock.h>
#include <sys/prctl.h>

#include "victim.h"

int main() {
  landlock_ruleset_attr rules{};
  rules.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_REG;
  const long ruleset = syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
  if (ruleset < 0) victim_skip("landlock");
  VICTIM_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  VICTIM_CHECK(syscall(SYS_landlock_restrict_self, ruleset, 0) == 0);
  close(static_cast<int>(ruleset));
  VICTIM_CHECK(open("file", O_WRONLY | O_CREAT, 0600) == -1 && errno == EACCES);
  VICTIM_LOSES("A sandbox by landlock(7) does not travel");
  victim_ready();
  victim_wait();
  const int file = open("file", O_WRONLY | O_CREAT, 0600);
  if (file >= 0) unlink("file");
  VICTIM_CHECK(file == -1 && errno == EACCES);
  victim_pass();
}
