// A lock by flock(2), which another description of the file cannot have.
#include <sys/file.h>

#include "victim.h"

int main() {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  VICTIM_CHECK(flock(fd, LOCK_EX) == 0);
  VICTIM_CLASHES_IN_FILES("lock");
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  const int other = open("file", O_RDWR);
  VICTIM_CHECK(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK);
  VICTIM_CHECK(flock(fd, LOCK_UN) == 0 && flock(other, LOCK_EX | LOCK_NB) == 0);
  VICTIM_CHECK(unlink("file") == 0);
  victim_pass();
}
