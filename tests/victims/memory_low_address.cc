// A mapping at a low address, and one at the highest of all.
#include <sys/mman.h>

#include "victim.h"

static char* map_at(unsigned long address) {
  auto* memory =
      static_cast<char*>(mmap(reinterpret_cast<void*>(address), 4096, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  VICTIM_CHECK(memory != MAP_FAILED);
  return memory;
}

int main() {
  char* low = map_at(0x10000);
  char* high = map_at(0x7fffffffe000);
  low[5] = 'l';
  high[5] = 'h';
  victim_ready();
  victim_wait();
  VICTIM_CHECK(low[5] == 'l' && high[5] == 'h' && low[6] == 0);
  victim_pass();
}
