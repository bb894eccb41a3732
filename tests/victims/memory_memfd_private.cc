// A private mapping of a memfd, changed in part.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int fd = memfd_create("victim", 0);
  VICTIM_CHECK(write(fd, "original", 9) == 9 && ftruncate(fd, 8192) == 0);
  auto* memory =
      static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  VICTIM_CHECK(memory != MAP_FAILED && close(fd) == 0);
  std::strcpy(memory + 4096, "changed");
  VICTIM_REFUSED_TO_PLAIN_USERS("this user may not open the old one");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(std::strcmp(memory, "original") == 0);
  VICTIM_CHECK(std::strcmp(memory + 4096, "changed") == 0);
  victim_pass();
}
