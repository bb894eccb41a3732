// A reservation without access, of which a part was made usable.
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr std::size_t kSize = std::size_t{1} << 40;
  auto* memory = static_cast<char*>(
      mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED) victim_skip("1 TB of address space");
  char* used = memory + kSize / 2;
  VICTIM_CHECK(mprotect(used, 16 * 4096, PROT_READ | PROT_WRITE) == 0);
  std::strcpy(used + 4096, "committed");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(std::strcmp(used + 4096, "committed") == 0);
  VICTIM_CHECK(mprotect(used + 16 * 4096, 4096, PROT_READ | PROT_WRITE) == 0);
  used[16 * 4096] = 'x';
  VICTIM_CHECK(madvise(used, 4096, MADV_DONTNEED) == 0 && mprotect(used, 4096, PROT_NONE) == 0);
  victim_pass();
}
