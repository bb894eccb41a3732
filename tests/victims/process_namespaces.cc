// Namespaces of its own: host name, System V, network, mounts.
#include <sys/mount.h>

#include "victim.h"

int main() {
  if (unshare(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS) != 0) victim_skip("root");
  VICTIM_CHECK(sethostname("victim", 6) == 0);
  VICTIM_REFUSED("it is in another uts namespace than telefork");
  VICTIM_REFUSED("it is in another ipc namespace than telefork");
  VICTIM_REFUSED("it is in another net namespace than telefork");
  VICTIM_REFUSED("it is in another mnt namespace than telefork");
  victim_ready();
  victim_wait();
  char name[64];
  VICTIM_CHECK(gethostname(name, sizeof name) == 0 && std::strcmp(name, "victim") == 0);
  victim_pass();
}
