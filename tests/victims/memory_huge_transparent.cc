// Memory of transparent huge pages, and a part that was given back.
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr std::size_t kHuge = 2 << 20;
  auto* memory = static_cast<char*>(
      mmap(nullptr, 5 * kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto* aligned = reinterpret_cast<unsigned*>(
      (reinterpret_cast<unsigned long>(memory) + kHuge - 1) / kHuge * kHuge);
  if (madvise(aligned, 4 * kHuge, MADV_HUGEPAGE) != 0) victim_skip("transparent huge pages");
  const std::size_t words = 4 * kHuge / sizeof(unsigned);
  for (std::size_t i = 0; i < words; ++i) aligned[i] = static_cast<unsigned>(i) * 2654435761u;
  VICTIM_CHECK(madvise(aligned + words / 2, 4096, MADV_DONTNEED) == 0);
  victim_ready();
  victim_wait();
  for (std::size_t i = 0; i < words; ++i) {
    const bool given_back = i >= words / 2 && i < words / 2 + 1024;
    VICTIM_CHECK(aligned[i] == (given_back ? 0 : static_cast<unsigned>(i) * 2654435761u));
  }
  victim_pass();
}
