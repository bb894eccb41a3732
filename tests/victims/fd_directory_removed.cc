// A directory that is open by two descriptions, and was removed.
#include <sys/stat.h>

#include <initializer_list>

#include "victim.h"

int main() {
  VICTIM_CHECK(mkdir("gone", 0710) == 0);
  const int fd = open("gone", O_RDONLY | O_DIRECTORY);
  const int by_path = open("gone", O_PATH | O_CLOEXEC);
  VICTIM_CHECK(fd >= 0 && by_path >= 0 && rmdir("gone") == 0);
  victim_ready();
  victim_wait();
  struct stat stat {};
  for (const int one : {fd, by_path}) {
    VICTIM_CHECK(fstat(one, &stat) == 0 && stat.st_mode == (S_IFDIR | 0710));
    VICTIM_CHECK(stat.st_nlink == 0);
    VICTIM_CHECK(openat(one, "file", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT);
  }
  victim_pass();
}
