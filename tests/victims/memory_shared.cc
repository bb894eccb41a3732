// Shared anonymous memory that nobody else has.
#include <sys/mman.h>

#include "victim.h"

int main() {
  auto* memory = static_cast<unsigned*>(
      mmap(nullptr, 64 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  VICTIM_CHECK(memory != MAP_FAILED);
  for (unsigned i = 0; i < 4096; ++i) memory[i] = i * 3;
  victim_ready();
  victim_wait();
  for (unsigned i = 0; i < 4096; ++i) VICTIM_CHECK(memory[i] == i * 3);
  VICTIM_CHECK(memory[5000] == 0);
  const pid_t child = fork();
  if (child == 0) {
    memory[0] = 77;
    _exit(0);
  }
  victim_check_child(child);
  VICTIM_CHECK(memory[0] == 77);
  victim_pass();
}
