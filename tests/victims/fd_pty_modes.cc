// A pseudoterminal in packet mode, locked and exclusive, whose output VSTOP has stopped.
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>

#include "victim.h"

int main() {
  const int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (master < 0) victim_skip("a pseudoterminal");
  VICTIM_CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_NONBLOCK);
  int on = 1;
  VICTIM_CHECK(slave >= 0 && write(slave, "said", 4) == 4);
  VICTIM_CHECK(ioctl(slave, TIOCEXCL) == 0 && ioctl(master, TIOCPKT, &on) == 0);
  VICTIM_CHECK(ioctl(master, TIOCSPTLCK, &on) == 0 && fchmod(slave, 0640) == 0);
  VICTIM_CHECK(write(master, "\023", 1) == 1);
  char text[16];
  // The status that tells of it.
  while (read(master, text, 1) != 1 || text[0] != TIOCPKT_STOP) {
    VICTIM_CHECK(errno == EAGAIN || text[0] == TIOCPKT_DATA);
    if (text[0] == TIOCPKT_DATA) continue;
  }
  VICTIM_NOTED_BESIDE("its terminal /dev/pts/");
  victim_ready();
  victim_wait();
  int value = 0;
  VICTIM_CHECK(ioctl(master, TIOCGPKT, &value) == 0 && value == 1);
  VICTIM_CHECK(ioctl(master, TIOCGPTLCK, &value) == 0 && value == 1);
  VICTIM_CHECK(ioctl(slave, TIOCGEXCL, &value) == 0 && value == 1);
  VICTIM_CHECK(ioctl(master, TIOCGEXCL, &value) == 0 && value == 0);
  struct stat stat;
  VICTIM_CHECK(fstat(slave, &stat) == 0 && (stat.st_mode & 0777) == 0640);
  VICTIM_CHECK(read(master, text, sizeof text) == 5 && std::memcmp(text, "\0said", 5) == 0);
  VICTIM_CHECK(write(slave, "more", 4) < 0 && errno == EAGAIN);
  VICTIM_CHECK(write(master, "\021", 1) == 1);
  while (write(slave, "more", 4) != 4) VICTIM_CHECK(errno == EAGAIN);
  while (read(master, text, sizeof text) < 0 || text[0] != TIOCPKT_DATA) continue;
  VICTIM_CHECK(std::memcmp(text, "\0more", 5) == 0);
  victim_pass();
}
