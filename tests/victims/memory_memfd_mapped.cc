// A memfd that is mapped, shared, and no longer open.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int fd = memfd_create("victim", 0);
  VICTIM_CHECK(ftruncate(fd, 8192) == 0);
  auto* memory = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  VICTIM_CHECK(memory != MAP_FAILED && close(fd) == 0);
  std::strcpy(memory + 4096, "in a memfd");
  VICTIM_REFUSED_TO_PLAIN_USERS("memory that others may share stays at home");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(std::strcmp(memory + 4096, "in a memfd") == 0 && memory[0] == 0);
  victim_pass();
}
