// mlockall(MCL_FUTURE): what is mapped later is locked too.
#include <sys/mman.h>

#include "victim.h"

int main() {
  VICTIM_CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
  victim_ready();
  victim_wait();
  auto* memory = static_cast<char*>(
      mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  unsigned char resident[4];
  VICTIM_CHECK(mincore(memory, 4 * 4096, resident) == 0);
  for (unsigned char page : resident) VICTIM_CHECK((page & 1) != 0);
  victim_pass();
}
