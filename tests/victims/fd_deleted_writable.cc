// A file that was deleted and is still read and written.
#include "victim.h"

int main() {
  const int fd = open("gone", O_RDWR | O_CREAT | O_EXCL, 0600);
  VICTIM_CHECK(write(fd, "still here", 10) == 10 && unlink("gone") == 0);
  victim_ready();
  victim_wait();
  char text[16] = "";
  VICTIM_CHECK(pread(fd, text, sizeof text, 0) == 10 && std::strcmp(text, "still here") == 0);
  VICTIM_CHECK(write(fd, "!", 1) == 1 && lseek(fd, 0, SEEK_END) == 11);
  victim_pass();
}
