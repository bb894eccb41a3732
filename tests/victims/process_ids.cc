// User, group and supplementary ids: real, effective, saved and of file systems, all different.
#include <grp.h>
#include <sys/fsuid.h>

#include "victim.h"

int main() {
  if (geteuid() != 0) victim_skip("root");
  const gid_t groups[] = {7, 70, 7000};
  VICTIM_CHECK(setgroups(3, groups) == 0);
  VICTIM_CHECK(setresgid(11, 12, 13) == 0);
  VICTIM_CHECK(setresuid(0, 0, 23) == 0);
  setfsgid(14);
  setfsuid(24);
  victim_ready();
  victim_wait();
  uid_t uids[3];
  gid_t gids[3];
  gid_t now[8];
  VICTIM_CHECK(getresuid(&uids[0], &uids[1], &uids[2]) == 0 && uids[0] == 0 && uids[1] == 0);
  VICTIM_CHECK(uids[2] == 23 && getresgid(&gids[0], &gids[1], &gids[2]) == 0);
  VICTIM_CHECK(gids[0] == 11 && gids[1] == 12 && gids[2] == 13);
  VICTIM_CHECK(getgroups(8, now) == 3 && std::memcmp(now, groups, sizeof groups) == 0);
  VICTIM_CHECK(setfsuid(static_cast<uid_t>(-1)) == 24 && setfsgid(static_cast<gid_t>(-1)) == 14);
  VICTIM_CHECK(setresuid(23, 23, 23) == 0 && getuid() == 23);
  victim_pass();
}
