// Numbers that share a description, by dup(2), and those that do not, of the same file.
#include "victim.h"

int main() {
  const int fd = open("/etc/passwd", O_RDONLY);
  const int twin = dup(fd);
  const int far_off = fcntl(fd, F_DUPFD_CLOEXEC, 700);
  const int other = open("/etc/passwd", O_RDONLY);
  VICTIM_CHECK(far_off == 700 && lseek(fd, 5, SEEK_SET) == 5 && lseek(other, 9, SEEK_SET) == 9);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(lseek(twin, 0, SEEK_CUR) == 5 && lseek(other, 0, SEEK_CUR) == 9);
  VICTIM_CHECK(lseek(twin, 11, SEEK_SET) == 11 && lseek(far_off, 0, SEEK_CUR) == 11);
  VICTIM_CHECK(lseek(fd, 0, SEEK_CUR) == 11 && lseek(other, 0, SEEK_CUR) == 9);
  VICTIM_CHECK(fcntl(fd, F_SETFL, O_APPEND) == 0 && (fcntl(twin, F_GETFL) & O_APPEND) != 0);
  VICTIM_CHECK(fcntl(fd, F_GETFD) == 0 && fcntl(far_off, F_GETFD) == FD_CLOEXEC);
  victim_pass();
}
