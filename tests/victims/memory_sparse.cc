// 64 GB of address space, reserved and touched here and there.
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr std::size_t kSize = std::size_t{64} << 30;
  constexpr std::size_t kStep = std::size_t{1} << 30;
  auto* memory = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED) victim_skip("64 GB of address space");
  VICTIM_CHECK(madvise(memory, kSize, MADV_NOHUGEPAGE) == 0);
  for (std::size_t at = 5; at < kSize; at += kStep) memory[at] = static_cast<char>(at / kStep + 1);
  victim_ready();
  victim_wait();
  for (std::size_t at = 5; at < kSize; at += kStep) {
    VICTIM_CHECK(memory[at] == static_cast<char>(at / kStep + 1) && memory[at + kStep / 2] == 0);
  }
  victim_pass();
}
