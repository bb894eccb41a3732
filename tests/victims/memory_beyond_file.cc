// A mapping that goes on past the end of its file: there is SIGBUS, and zeros in the last page.
#include <setjmp.h>
#include <sys/mman.h>

#include "victim.h"

static sigjmp_buf back;

static void on_fault(int) { siglongjmp(back, 1); }

static bool is_there(const volatile char* address) {
  if (sigsetjmp(back, 1) != 0) return false;
  return *address == *address;
}

int main() {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  VICTIM_CHECK(write(fd, "short", 5) == 5);
  auto* memory = static_cast<char*>(mmap(nullptr, 4 * 4096, PROT_READ, MAP_PRIVATE, fd, 0));
  VICTIM_CHECK(memory != MAP_FAILED && close(fd) == 0);
  std::signal(SIGBUS, on_fault);
  VICTIM_CHECK(is_there(memory) && !is_there(memory + 4096));
  victim_ready();
  victim_wait();
  VICTIM_CHECK(std::memcmp(memory, "short\0\0", 7) == 0 && !is_there(memory + 4096));
  VICTIM_CHECK(!is_there(memory + 3 * 4096) && unlink("file") == 0);
  victim_pass();
}
