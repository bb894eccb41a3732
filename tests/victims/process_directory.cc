// Its working directory, its umask, and relative paths that hang on them.
#include <sys/stat.h>

#include "victim.h"

int main() {
  VICTIM_CHECK(mkdir("below", 0700) == 0 && chdir("below") == 0);
  umask(0137);
  victim_ready();
  victim_wait();
  struct stat stat {};
  VICTIM_CHECK(close(open("file", O_CREAT | O_WRONLY, 0777)) == 0);
  VICTIM_CHECK(::stat("../below/file", &stat) == 0 && (stat.st_mode & 0777) == 0640);
  VICTIM_CHECK(umask(0) == 0137 && unlink("file") == 0);
  VICTIM_CHECK(chdir("..") == 0 && rmdir("below") == 0);
  victim_pass();
}
