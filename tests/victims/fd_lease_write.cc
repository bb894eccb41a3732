// A lease for writing, which is broken by whoever looks at the file.
#include "victim.h"

int main() {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  VICTIM_CHECK(fcntl(fd, F_SETLEASE, F_WRLCK) == 0);
  VICTIM_REFUSED("a lock on the file cannot move yet");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(fcntl(fd, F_GETLEASE) == F_WRLCK);
  VICTIM_CHECK(unlink("file") == 0);
  victim_pass();
}
