// Another root directory.
#include <sys/stat.h>

#include "victim.h"

int main() {
  if (geteuid() != 0) victim_skip("root");
  VICTIM_CHECK(mkdir("root", 0700) == 0 && chroot("root") == 0 && chdir("/") == 0);
  VICTIM_REFUSED("its root directory is not this machine's (chroot)");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(access("/etc/passwd", R_OK) == -1 && errno == ENOENT);
  // Out of it again, to tidy up.
  VICTIM_CHECK(mkdir("hole", 0700) == 0);
  const int here = open(".", O_RDONLY | O_DIRECTORY);
  VICTIM_CHECK(chroot("hole") == 0 && fchdir(here) == 0 && rmdir("hole") == 0);
  VICTIM_CHECK(chdir("..") == 0 && rmdir("root") == 0);
  victim_pass();
}
