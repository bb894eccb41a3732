// Private anonymous memory: written, only read, never touched, read-only, without access.
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr std::size_t kSize = 64 * 4096;
  auto* memory = static_cast<unsigned char*>(
      mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  VICTIM_CHECK(memory != MAP_FAILED);
  for (std::size_t i = 0; i < 16 * 4096; ++i)
    memory[i] = static_cast<unsigned char>(i * 7 + i / 4096);
  VICTIM_CHECK(memory[20 * 4096] == 0);
  VICTIM_CHECK(mprotect(memory, 8 * 4096, PROT_READ) == 0);
  VICTIM_CHECK(mprotect(memory + 12 * 4096, 4096, PROT_NONE) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(mprotect(memory + 12 * 4096, 4096, PROT_READ) == 0);
  for (std::size_t i = 0; i < 16 * 4096; ++i) {
    VICTIM_CHECK(memory[i] == static_cast<unsigned char>(i * 7 + i / 4096));
  }
  for (std::size_t i = 16 * 4096; i < kSize; ++i) VICTIM_CHECK(memory[i] == 0);
  VICTIM_CHECK(mprotect(memory, kSize, PROT_READ | PROT_WRITE) == 0);
  std::memset(memory, 1, kSize);
  VICTIM_CHECK(mremap(memory, kSize, 2 * kSize, MREMAP_MAYMOVE) != MAP_FAILED);
  victim_pass();
}
