// A lock that belongs to an open file description (fcntl F_OFD_SETLK).
#include "victim.h"

int main() {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_start = 3;
  lock.l_len = 4;
  VICTIM_CHECK(fcntl(fd, F_OFD_SETLK, &lock) == 0);
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  const int other = open("file", O_RDWR);
  lock = {};
  lock.l_type = F_WRLCK;
  VICTIM_CHECK(fcntl(other, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_RDLCK);
  VICTIM_CHECK(lock.l_start == 3 && lock.l_len == 4 && unlink("file") == 0);
  victim_pass();
}
