// Memory that the kernel may drop (MAP_DROPPABLE).
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr int kDroppable = 8;  // MAP_DROPPABLE, newer than the headers
  void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, kDroppable | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) victim_skip("MAP_DROPPABLE");
  VICTIM_REFUSED("droppable memory cannot be restored yet");
  victim_ready();
  victim_wait();
  *static_cast<char*>(memory) = 1;
  victim_pass();
}
