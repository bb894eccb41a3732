// A file that was deleted and is open for reading only.
#include "victim.h"

int main() {
  const int making = open("gone", O_WRONLY | O_CREAT | O_EXCL, 0600);
  VICTIM_CHECK(write(making, "still here", 10) == 10 && close(making) == 0);
  const int fd = open("gone", O_RDONLY);
  VICTIM_CHECK(unlink("gone") == 0 && lseek(fd, 6, SEEK_SET) == 6);
  victim_ready();
  victim_wait();
  char text[16] = "";
  VICTIM_CHECK(read(fd, text, sizeof text) == 4 && std::strcmp(text, "here") == 0);
  VICTIM_CHECK(lseek(fd, 0, SEEK_SET) == 0 && read(fd, text, 5) == 5);
  victim_pass();
}
