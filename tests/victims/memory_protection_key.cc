// Memory with a protection key.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int key = pkey_alloc(0, PKEY_DISABLE_WRITE);
  if (key < 0) victim_skip("pku");
  auto* memory = static_cast<char*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  VICTIM_CHECK(pkey_mprotect(memory, 4096, PROT_READ | PROT_WRITE, key) == 0);
  VICTIM_REFUSED("memory protection keys cannot be restored yet");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(pkey_get(key) == PKEY_DISABLE_WRITE && pkey_set(key, 0) == 0);
  memory[0] = 1;
  victim_pass();
}
