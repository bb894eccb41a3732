// A lock of the process on a range of a file (fcntl F_SETLK), seen by a child.
#include "victim.h"

int main() {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_start = 10;
  lock.l_len = 5;
  VICTIM_CHECK(fcntl(fd, F_SETLK, &lock) == 0);
  VICTIM_CLASHES_IN_FILES("lock");
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  const pid_t child = fork();
  if (child == 0) {
    struct flock found {};
    found.l_type = F_WRLCK;
    VICTIM_CHECK(fcntl(fd, F_GETLK, &found) == 0 && found.l_type == F_WRLCK);
    VICTIM_CHECK(found.l_start == 10 && found.l_len == 5 && found.l_pid == getppid());
    _exit(0);
  }
  victim_check_child(child);
  VICTIM_CHECK(unlink("file") == 0);
  victim_pass();
}
