// Memory that may only be executed, which pkeys make unreadable where the processor has them.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
  auto* memory = static_cast<unsigned char*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memcpy(memory, code, sizeof code);
  VICTIM_CHECK(mprotect(memory, 4096, PROT_EXEC) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(reinterpret_cast<int (*)()>(memory)() == 42);
  victim_pass();
}
