// A lease on a file, for reading: who opens it has the holder told by a signal.
#include "victim.h"

int main() {
  const sigset_t set = victim_signals(SIGIO);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  const int fd = open("file", O_RDONLY | O_CREAT, 0600);
  VICTIM_CHECK(fcntl(fd, F_SETLEASE, F_RDLCK) == 0);
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(fcntl(fd, F_GETLEASE) == F_RDLCK);
  VICTIM_CHECK(open("file", O_WRONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
  VICTIM_CHECK(sigwaitinfo(&set, nullptr) == SIGIO);
  VICTIM_CHECK(fcntl(fd, F_SETLEASE, F_UNLCK) == 0 && unlink("file") == 0);
  victim_pass();
}
