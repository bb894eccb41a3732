// Descriptors that only name a file or a directory (O_PATH).
#include <sys/stat.h>

#include "victim.h"

int main() {
  const int file = open("/etc/passwd", O_PATH);
  const int folder = open("/etc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  struct stat before {};
  VICTIM_CHECK(fstat(file, &before) == 0);
  victim_ready();
  victim_wait();
  struct stat now {};
  char c;
  VICTIM_CHECK(fstat(file, &now) == 0 && now.st_ino == before.st_ino);
  VICTIM_CHECK(read(file, &c, 1) == -1 && errno == EBADF);
  VICTIM_CHECK((fcntl(file, F_GETFL) & O_PATH) != 0 && fcntl(folder, F_GETFD) == FD_CLOEXEC);
  const int again = openat(folder, "passwd", O_RDONLY);
  VICTIM_CHECK(again >= 0 && fstat(again, &now) == 0 && now.st_ino == before.st_ino);
  victim_pass();
}
