// Thirty thousand mappings.
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr std::size_t kCount = 30'000;
  auto* memory = static_cast<char*>(mmap(nullptr, kCount * 4096, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  VICTIM_CHECK(memory != MAP_FAILED && madvise(memory, kCount * 4096, MADV_NOHUGEPAGE) == 0);
  for (std::size_t i = 0; i < kCount; i += 100)
    memory[i * 4096] = static_cast<char>(1 + i / 100 % 100);
  for (std::size_t i = 0; i < kCount; i += 2) {
    VICTIM_CHECK(mprotect(memory + i * 4096, 4096, PROT_READ) == 0);
  }
  victim_ready();
  victim_wait();
  for (std::size_t i = 0; i < kCount; ++i) {
    const char expected = i % 100 == 0 ? static_cast<char>(1 + i / 100 % 100) : 0;
    VICTIM_CHECK(memory[i * 4096] == expected);
  }
  VICTIM_CHECK(mprotect(memory, kCount * 4096, PROT_READ | PROT_WRITE) == 0);
  victim_pass();
}
