// Every advice of madvise(2) that stays with a mapping, as the runner sees it in smaps.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int advice[] = {MADV_SEQUENTIAL, MADV_RANDOM,   MADV_DONTDUMP,  MADV_HUGEPAGE,
                        MADV_NOHUGEPAGE, MADV_DONTFORK, MADV_WIPEONFORK};
  char* pages[7];
  for (int i = 0; i < 7; ++i) {
    pages[i] = static_cast<char*>(
        mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    VICTIM_CHECK(madvise(pages[i], 4 * 4096, advice[i]) == 0 || errno == EINVAL);
    pages[i][4096] = static_cast<char>(i);
  }
  victim_ready();
  victim_wait();
  for (int i = 0; i < 7; ++i) VICTIM_CHECK(pages[i][4096] == i && pages[i][0] == 0);
  victim_pass();
}
