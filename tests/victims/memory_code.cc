// Code that was made at run time, in memory that may be executed and not written.
#include <sys/mman.h>

#include "victim.h"

int main() {
  // mov $42, %eax; ret
  const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
  auto* memory = static_cast<unsigned char*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memcpy(memory, code, sizeof code);
  VICTIM_CHECK(mprotect(memory, 4096, PROT_READ | PROT_EXEC) == 0);
  auto* function = reinterpret_cast<int (*)()>(memory);
  VICTIM_CHECK(function() == 42);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(function() == 42);
  VICTIM_CHECK(mprotect(memory, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
  memory[1] = 43;
  VICTIM_CHECK(function() == 43);
  victim_pass();
}
