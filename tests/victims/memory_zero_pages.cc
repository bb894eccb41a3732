// Pages that were only read, pages that were written with zeros, and pages that were discarded.
#include <sys/mman.h>

#include "victim.h"

int main() {
  auto* memory = static_cast<volatile char*>(
      mmap(nullptr, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (int i = 0; i < 64; ++i) {
    volatile char* page = memory + i * 4096;
    if (i % 4 == 0) VICTIM_CHECK(*page == 0);
    if (i % 4 == 1) *page = 0;
    if (i % 4 == 2) *page = static_cast<char>(i);
    if (i % 8 == 6) VICTIM_CHECK(madvise(const_cast<char*>(page), 4096, MADV_DONTNEED) == 0);
  }
  victim_ready();
  victim_wait();
  for (int i = 0; i < 64; ++i) VICTIM_CHECK(memory[i * 4096] == (i % 8 == 2 ? i : 0));
  victim_pass();
}
