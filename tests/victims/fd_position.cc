// Regular files: the position, O_APPEND and O_RDWR of each, and that they still read and write.
#include <fcntl.h>

#include "victim.h"

int main() {
  const int fd = open("text", O_RDWR | O_CREAT | O_EXCL, 0600);
  VICTIM_CHECK(write(fd, "0123456789", 10) == 10 && lseek(fd, 4, SEEK_SET) == 4);
  const int log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600);
  VICTIM_CHECK(write(log, "one", 3) == 3);
  const int reading = open("text", O_RDONLY | O_NOATIME);
  VICTIM_CHECK(lseek(reading, 7, SEEK_SET) == 7);
  const int flags[] = {fcntl(fd, F_GETFL), fcntl(log, F_GETFL), fcntl(reading, F_GETFL)};
  victim_ready();
  victim_wait();
  char text[8] = "";
  VICTIM_CHECK(read(fd, text, 2) == 2 && std::strcmp(text, "45") == 0);
  VICTIM_CHECK(write(fd, "x", 1) == 1);
  VICTIM_CHECK(read(reading, text, 2) == 2 && std::strcmp(text, "78") == 0);
  VICTIM_CHECK(lseek(log, 0, SEEK_SET) == 0 && write(log, "two", 3) == 3);
  VICTIM_CHECK(lseek(log, 0, SEEK_END) == 6);
  VICTIM_CHECK(fcntl(fd, F_GETFL) == flags[0] && fcntl(log, F_GETFL) == flags[1]);
  VICTIM_CHECK(fcntl(reading, F_GETFL) == flags[2]);
  VICTIM_CHECK(unlink("text") == 0 && unlink("log") == 0);
  victim_pass();
}
