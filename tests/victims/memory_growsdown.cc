// A mapping that grows downwards by itself (MAP_GROWSDOWN).
#include <sys/mman.h>

#include "victim.h"

int main() {
  constexpr std::size_t kRoom = 4 << 20;
  auto* room = static_cast<char*>(
      mmap(nullptr, kRoom, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  VICTIM_CHECK(room != MAP_FAILED && munmap(room, kRoom) == 0);
  auto* top =
      static_cast<char*>(mmap(room + kRoom - 8192, 8192, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0));
  VICTIM_CHECK(top != MAP_FAILED);
  top[0] = 'a';
  top[-4096] = 'b';
  victim_ready();
  victim_wait();
  VICTIM_CHECK(top[0] == 'a' && top[-4096] == 'b');
  top[-8192] = 'c';
  VICTIM_CHECK(top[-8192] == 'c');
  victim_pass();
}
