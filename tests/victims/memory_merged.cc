// Memory that may be merged with equal pages (KSM), and stays writable apart.
#include <sys/mman.h>

#include "victim.h"

int main() {
  auto* memory = static_cast<char*>(
      mmap(nullptr, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (madvise(memory, 16 * 4096, MADV_MERGEABLE) != 0) victim_skip("KSM");
  std::memset(memory, 'k', 16 * 4096);
  victim_ready();
  victim_wait();
  memory[0] = 'x';
  for (int i = 1; i < 16; ++i) VICTIM_CHECK(memory[i * 4096] == 'k');
  victim_pass();
}
