// Shared mappings of a file, one that is written through and one that is only read.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  VICTIM_CHECK(ftruncate(fd, 8192) == 0);
  auto* writing =
      static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  auto* reading = static_cast<char*>(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 4096));
  VICTIM_CHECK(writing != MAP_FAILED && reading != MAP_FAILED && close(fd) == 0);
  std::strcpy(writing + 4096, "before");
  VICTIM_CHECK(msync(writing, 8192, MS_SYNC) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(std::strcmp(reading, "before") == 0);
  std::strcpy(writing + 4096, "after");
  char text[8] = "";
  const int again = open("file", O_RDONLY);
  VICTIM_CHECK(std::strcmp(reading, "after") == 0 && pread(again, text, 5, 4096) == 5);
  VICTIM_CHECK(std::strcmp(text, "after") == 0 && unlink("file") == 0);
  victim_pass();
}
