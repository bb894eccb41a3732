// MADV_WIPEONFORK and MADV_DONTFORK: a child finds zeros, or nothing.
#include <sys/mman.h>

#include "victim.h"

int main() {
  auto* memory = static_cast<char*>(
      mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (int i = 0; i < 3; ++i) memory[i * 4096] = static_cast<char>('a' + i);
  VICTIM_CHECK(madvise(memory, 4096, MADV_WIPEONFORK) == 0);
  VICTIM_CHECK(madvise(memory + 8192, 4096, MADV_DONTFORK) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(memory[0] == 'a' && memory[4096] == 'b' && memory[8192] == 'c');
  const pid_t child = fork();
  if (child == 0) {
    unsigned char resident = 0;
    VICTIM_CHECK(memory[0] == 0 && memory[4096] == 'b');
    VICTIM_CHECK(mincore(memory + 8192, 4096, &resident) == -1 && errno == ENOMEM);
    _exit(0);
  }
  victim_check_child(child);
  victim_pass();
}
