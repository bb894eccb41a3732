// Two pseudoterminals of which one end is closed: with no slave open a master reads the last that
// was said, and then an error; a slave without its master is hung up.
#include <poll.h>
#include <sys/ioctl.h>

#include "victim.h"

namespace {

int open_pair(int& slave) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) victim_skip("a pseudoterminal");
  VICTIM_CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
  slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  VICTIM_CHECK(slave >= 0);
  return master;
}

}  // namespace

int main() {
  int slave = -1;
  int orphan = -1;
  const int master = open_pair(slave);
  VICTIM_CHECK(close(open_pair(orphan)) == 0);
  VICTIM_CHECK(write(slave, "last", 4) == 4 && close(slave) == 0);
  VICTIM_CHECK(fcntl(orphan, F_SETFL, O_NONBLOCK) == 0);
  VICTIM_NOTED_BESIDE("its terminal /dev/pts/");
  victim_ready();
  victim_wait();
  char text[8];
  VICTIM_CHECK(read(master, text, sizeof text) == 4 && std::memcmp(text, "last", 4) == 0);
  VICTIM_CHECK(read(master, text, sizeof text) < 0 && errno == EIO);
  pollfd hung_up{orphan, POLLIN, 0};
  VICTIM_CHECK(poll(&hung_up, 1, 0) == 1 && (hung_up.revents & POLLHUP) != 0);
  VICTIM_CHECK(read(orphan, text, sizeof text) == 0);
  VICTIM_CHECK(write(orphan, "x", 1) < 0 && errno == EIO);
  VICTIM_CHECK((fcntl(orphan, F_GETFL) & O_NONBLOCK) != 0);
  slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  VICTIM_CHECK(slave >= 0 && write(slave, "new", 3) == 3 && read(master, text, sizeof text) == 3);
  victim_pass();
}
