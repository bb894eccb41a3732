// Private and shared mappings of /dev/zero.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int zero = open("/dev/zero", O_RDWR);
  auto* own = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0));
  auto* shared =
      static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, zero, 0));
  VICTIM_CHECK(own != MAP_FAILED && shared != MAP_FAILED && close(zero) == 0);
  own[1] = 'o';
  shared[4097] = 's';
  victim_ready();
  victim_wait();
  VICTIM_CHECK(own[1] == 'o' && shared[4097] == 's' && own[0] == 0 && shared[0] == 0);
  victim_pass();
}
