// Locked memory: mlock, and mlock2 of what comes only when it is touched.
#include <sys/mman.h>

#include "victim.h"

static long locked_kilobytes() {
  FILE* file = fopen("/proc/self/status", "r");
  char line[256];
  long value = -1;
  while (fgets(line, sizeof line, file) != nullptr) {
    if (sscanf(line, "VmLck: %ld", &value) == 1) break;
  }
  fclose(file);
  return value;
}

int main() {
  auto* now = static_cast<char*>(
      mmap(nullptr, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto* on_fault =
      static_cast<char*>(mmap(nullptr, 16 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  VICTIM_CHECK(mlock(now, 16 * 4096) == 0 && mlock2(on_fault, 8 * 4096, MLOCK_ONFAULT) == 0);
  VICTIM_CHECK(locked_kilobytes() == 96);
  victim_ready();
  victim_wait();
  unsigned char resident[16];
  VICTIM_CHECK(locked_kilobytes() == 96 && mincore(now, 16 * 4096, resident) == 0);
  for (unsigned char page : resident) VICTIM_CHECK((page & 1) != 0);
  VICTIM_CHECK(madvise(now, 4096, MADV_DONTNEED) == -1 && errno == EINVAL);
  VICTIM_CHECK(munlock(now, 16 * 4096) == 0 && locked_kilobytes() == 32);
  victim_pass();
}
