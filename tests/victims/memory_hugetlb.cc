// Memory of hugetlb pages, of which none is there yet.
#include <sys/mman.h>

#include <cstdio>

#include "victim.h"

namespace {

constexpr unsigned long kSize = 2 << 20;

bool is_hugetlb(const void* memory) {
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  VICTIM_CHECK(maps != nullptr);
  char line[512];
  bool found = false;
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long start = 0;
    unsigned long end = 0;
    if (std::sscanf(line, "%lx-%lx", &start, &end) == 2 &&
        start == reinterpret_cast<unsigned long>(memory)) {
      found = end - start == kSize && std::strstr(line, "/anon_hugepage") != nullptr;
    }
  }
  std::fclose(maps);
  return found;
}

}  // namespace

int main() {
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) victim_skip("hugetlb");
  VICTIM_CHECK(is_hugetlb(memory));
  victim_ready();
  victim_wait();
  VICTIM_CHECK(is_hugetlb(memory) && munmap(memory, kSize) == 0);
  victim_pass();
}
