// Memory with a name (PR_SET_VMA_ANON_NAME), as Android and malloc implementations give.
#include <sys/mman.h>
#include <sys/prctl.h>

#include "victim.h"

static bool has_name() {
  FILE* file = fopen("/proc/self/maps", "r");
  char line[512];
  bool found = false;
  while (fgets(line, sizeof line, file) != nullptr) {
    found = found || std::strstr(line, "[anon:victim's arena]") != nullptr;
  }
  fclose(file);
  return found;
}

int main() {
  constexpr int kSetVma = 0x53564d41;
  void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (prctl(kSetVma, 0, memory, 4096, "victim's arena") != 0) victim_skip("PR_SET_VMA_ANON_NAME");
  VICTIM_CHECK(has_name());
  VICTIM_LOSES("names of memory (PR_SET_VMA_ANON_NAME)");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(has_name());
  victim_pass();
}
