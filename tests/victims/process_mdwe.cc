// Memory that may not become executable (PR_SET_MDWE).
#include <sys/mman.h>
#include <sys/prctl.h>

#include "victim.h"

int main() {
  constexpr int kSetMdwe = 65;
  if (prctl(kSetMdwe, 1, 0, 0, 0) != 0) victim_skip("PR_SET_MDWE");
  victim_ready();
  victim_wait();
  void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  VICTIM_CHECK(mprotect(memory, 4096, PROT_READ | PROT_EXEC) == -1 && errno == EACCES);
  victim_pass();
}
