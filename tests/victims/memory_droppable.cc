// Memory that the kernel may drop (MAP_DROPPABLE).
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr int kDroppable = 8;  // MAP_DROPPABLE, newer than the headers
  void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, kDroppable | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) victim_skip("MAP_DROPPABLE");
  auto* bytes = static_cast<char*>(memory);
  bytes[17] = 1;
  victim_ready();
  victim_wait();
  // No kernel keeps it for certain.
  VICTIM_CHECK(bytes[17] == 1 || bytes[17] == 0);
  bytes[17] = 2;
  // No child has it.
  const pid_t child = fork();
  if (child == 0) _exit(bytes[17]);
  int status = -1;
  VICTIM_CHECK(waitpid(child, &status, 0) == child && status == 0);
  victim_pass();
}
