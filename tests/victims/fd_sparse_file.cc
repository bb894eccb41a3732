// A file with a hole of a gigabyte, open at its far end.
#include <sys/stat.h>

#include "victim.h"

int main() {
  constexpr off_t kFar = off_t{1} << 30;
  const int fd = open("sparse", O_RDWR | O_CREAT, 0600);
  VICTIM_CHECK(pwrite(fd, "start", 5, 0) == 5 && pwrite(fd, "end", 3, kFar) == 3);
  VICTIM_CHECK(lseek(fd, kFar, SEEK_SET) == kFar);
  victim_ready();
  victim_wait();
  char text[8] = "";
  struct stat stat {};
  VICTIM_CHECK(read(fd, text, sizeof text) == 3 && std::strcmp(text, "end") == 0);
  VICTIM_CHECK(lseek(fd, 4096, SEEK_DATA) > 4096);
  VICTIM_CHECK(fstat(fd, &stat) == 0 && stat.st_blocks < 1000 && unlink("sparse") == 0);
  victim_pass();
}
