// A working directory that was removed.
#include <sys/stat.h>

#include "victim.h"

int main() {
  VICTIM_CHECK(mkdir("gone", 0700) == 0 && chdir("gone") == 0 && rmdir("../gone") == 0);
  VICTIM_REFUSED("its working directory was removed");
  victim_ready();
  victim_wait();
  char path[64];
  VICTIM_CHECK(getcwd(path, sizeof path) == nullptr && errno == ENOENT);
  victim_pass();
}
