// A private mapping of a file: pages as in the file, pages that were changed, and a read-only part.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  char page[4096];
  for (int i = 0; i < 8; ++i) {
    std::memset(page, 'a' + i, sizeof page);
    VICTIM_CHECK(write(fd, page, sizeof page) == sizeof page);
  }
  auto* memory =
      static_cast<char*>(mmap(nullptr, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  VICTIM_CHECK(memory != MAP_FAILED && close(fd) == 0);
  memory[4096] = 'X';
  memory[5 * 4096 + 9] = 'Y';
  VICTIM_CHECK(mprotect(memory, 2 * 4096, PROT_READ) == 0);
  victim_ready();
  victim_wait();
  for (int i = 0; i < 8 * 4096; ++i) {
    const char expected = i == 4096           ? 'X'
                          : i == 5 * 4096 + 9 ? 'Y'
                                              : static_cast<char>('a' + i / 4096);
    VICTIM_CHECK(memory[i] == expected);
  }
  memory[7 * 4096] = 'Z';
  const int again = open("file", O_RDONLY);
  VICTIM_CHECK(pread(again, page, 1, 7 * 4096) == 1 && page[0] == 'h' && unlink("file") == 0);
  victim_pass();
}
