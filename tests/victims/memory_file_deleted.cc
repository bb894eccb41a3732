// A private mapping of a file that was deleted since.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  VICTIM_CHECK(write(fd, "deleted", 8) == 8 && ftruncate(fd, 8192) == 0);
  auto* memory =
      static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  VICTIM_CHECK(memory != MAP_FAILED && close(fd) == 0 && unlink("file") == 0);
  memory[4096] = 'x';
  VICTIM_REFUSED_TO_PLAIN_USERS("this user may not open the old one");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(std::strcmp(memory, "deleted") == 0 && memory[4096] == 'x' && memory[4097] == 0);
  victim_pass();
}
