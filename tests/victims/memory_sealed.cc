// Memory that mseal(2) has sealed: it can neither be unmapped nor changed.
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr long kMseal = 462;
  auto* memory = static_cast<char*>(
      mmap(nullptr, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memory[0] = 's';
  if (syscall(kMseal, memory, 4096, 0) != 0) victim_skip("mseal");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(munmap(memory, 4096) == -1 && errno == EPERM && memory[0] == 's');
  VICTIM_CHECK(mprotect(memory, 4096, PROT_READ) == -1 && errno == EPERM);
  VICTIM_CHECK(munmap(memory + 4096, 4096) == 0);
  victim_pass();
}
