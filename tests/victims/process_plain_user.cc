// A program that has become a plain user for good.
#include <grp.h>
#include <sys/prctl.h>

#include "victim.h"

int main() {
  if (geteuid() != 0) victim_skip("root");
  const gid_t group = 54321;
  VICTIM_CHECK(chown(".", 65534, 65534) == 0 && setgroups(1, &group) == 0);
  VICTIM_CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
  VICTIM_CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
  VICTIM_LOSES_AT_HOME("/proc/self/exe** is telefork-blank");
  victim_ready();
  victim_wait();
  gid_t now[4];
  VICTIM_CHECK(getuid() == 65534 && getegid() == 65534 && setuid(0) == -1 && errno == EPERM);
  VICTIM_CHECK(getgroups(4, now) == 1 && now[0] == group);
  VICTIM_CHECK(open("/etc/shadow", O_RDONLY) == -1 && errno == EACCES);
  VICTIM_CHECK(close(open("own", O_CREAT | O_WRONLY, 0600)) == 0 && unlink("own") == 0);
  victim_pass();
}
