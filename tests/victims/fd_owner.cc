// Who gets SIGIO of a descriptor, and that it is another signal.
#include "victim.h"

int main() {
  const int fd = open("/dev/null", O_RDWR);
  VICTIM_CHECK(fcntl(fd, F_SETOWN, getpid()) == 0 && fcntl(fd, F_SETSIG, SIGRTMIN) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(fcntl(fd, F_GETOWN) == getpid() && fcntl(fd, F_GETSIG) == SIGRTMIN);
  victim_pass();
}
