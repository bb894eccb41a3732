// A working directory that was removed: nothing is in it, and nothing can be made in it.
#include <sys/stat.h>

#include "victim.h"

int main() {
  VICTIM_CHECK(mkdir("gone", 0750) == 0 && chdir("gone") == 0 && rmdir("../gone") == 0);
  victim_ready();
  victim_wait();
  char path[64];
  VICTIM_CHECK(getcwd(path, sizeof path) == nullptr && errno == ENOENT);
  VICTIM_CHECK(open("file", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT);
  struct stat stat {};
  VICTIM_CHECK(::stat(".", &stat) == 0 && stat.st_mode == (S_IFDIR | 0750) && stat.st_nlink == 0);
  victim_pass();
}
