// A mapping that was moved, grown and cut by mremap(2), and one that was left behind empty.
#include <sys/mman.h>

#include "victim.h"

int main() {
  auto* first = static_cast<char*>(
      mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (int i = 0; i < 4; ++i) first[i * 4096] = static_cast<char>('a' + i);
  auto* moved = static_cast<char*>(
      mremap(first, 4 * 4096, 4 * 4096, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr));
  VICTIM_CHECK(moved != MAP_FAILED && moved != first);
  moved = static_cast<char*>(mremap(moved, 4 * 4096, 300 * 4096, MREMAP_MAYMOVE));
  VICTIM_CHECK(moved != MAP_FAILED);
  moved[200 * 4096] = 'z';
  victim_ready();
  victim_wait();
  for (int i = 0; i < 4; ++i) {
    VICTIM_CHECK(moved[i * 4096] == 'a' + i && first[i * 4096] == 0);
  }
  VICTIM_CHECK(moved[200 * 4096] == 'z');
  moved = static_cast<char*>(mremap(moved, 300 * 4096, 600 * 4096, MREMAP_MAYMOVE));
  VICTIM_CHECK(moved != MAP_FAILED && moved[200 * 4096] == 'z' && moved[500 * 4096] == 0);
  victim_pass();
}
