// mlockall(MCL_FUTURE | MCL_ONFAULT): what is mapped later stays once it is touched, and not
// before.
#include <sys/mman.h>

#include "victim.h"

static bool is_locked_on_fault(const void* memory) {
  FILE* maps = fopen("/proc/self/smaps", "r");
  char wanted[32];
  snprintf(wanted, sizeof wanted, "%lx-", reinterpret_cast<unsigned long>(memory));
  char line[512];
  bool here = false;
  while (fgets(line, sizeof line, maps) != nullptr) {
    if (std::strncmp(line, wanted, std::strlen(wanted)) == 0) here = true;
    if (here && std::strncmp(line, "VmFlags:", 8) == 0) break;
  }
  fclose(maps);
  return here && std::strstr(line, " lo") != nullptr && std::strstr(line, " lf") != nullptr;
}

int main() {
  VICTIM_CHECK(mlockall(MCL_FUTURE | MCL_ONFAULT) == 0);
  victim_ready();
  victim_wait();
  // Of another kind than its neighbours, and so one of its own.
  auto* memory = static_cast<char*>(
      mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  unsigned char resident[4];
  VICTIM_CHECK(mincore(memory, 4 * 4096, resident) == 0);
  for (unsigned char page : resident) VICTIM_CHECK((page & 1) == 0);
  VICTIM_CHECK(is_locked_on_fault(memory));
  victim_pass();
}
