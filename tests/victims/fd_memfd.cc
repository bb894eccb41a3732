// A memfd: content, position, seals and name.
#include <sys/mman.h>

#include "victim.h"

int main() {
  const int fd = memfd_create("victim", MFD_ALLOW_SEALING);
  VICTIM_CHECK(write(fd, "sealed text", 11) == 11 && lseek(fd, 3, SEEK_SET) == 3);
  VICTIM_CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
  victim_ready();
  victim_wait();
  char text[16] = "";
  VICTIM_CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW));
  VICTIM_CHECK(read(fd, text, sizeof text) == 8 && std::strcmp(text, "led text") == 0);
  VICTIM_CHECK(ftruncate(fd, 4) == -1 && errno == EPERM);
  VICTIM_CHECK(pwrite(fd, "S", 1, 0) == 1 && pread(fd, text, 1, 0) == 1 && text[0] == 'S');
  victim_pass();
}
