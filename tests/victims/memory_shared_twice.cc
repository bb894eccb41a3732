// Shared anonymous memory that was mapped a second time, by mremap(2) of length 0.
#include <sys/mman.h>

#include "victim.h"

int main() {
  auto* first = static_cast<int*>(
      mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  auto* second = static_cast<int*>(mremap(first, 0, 4 * 4096, MREMAP_MAYMOVE));
  VICTIM_CHECK(first != MAP_FAILED && second != MAP_FAILED && first != second);
  first[1] = 11;
  VICTIM_CHECK(second[1] == 11);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(first[1] == 11 && second[1] == 11);
  second[2] = 22;
  VICTIM_CHECK(first[2] == 22);
  victim_pass();
}
