// A descriptor of a namespace, its own.
#include "victim.h"

int main() {
  const int fd = open("/proc/self/ns/uts", O_RDONLY);
  VICTIM_CHECK(fd >= 0);
  VICTIM_REFUSED("a namespace cannot move");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(fcntl(fd, F_GETFD) == 0);
  victim_pass();
}
