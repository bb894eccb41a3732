// Memory of hugetlb pages.
#include <sys/mman.h>

#include "victim.h"

int main() {
  void* memory = mmap(nullptr, 2 << 20, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) victim_skip("hugetlb");
  VICTIM_REFUSED("hugetlb memory cannot be captured yet");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(munmap(memory, 2 << 20) == 0);
  victim_pass();
}
