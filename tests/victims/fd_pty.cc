// A pair of a pseudoterminal, both ends here: settings, size, and what waits in it.
#include <sys/ioctl.h>
#include <termios.h>

#include "victim.h"

int main() {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) victim_skip("a pseudoterminal");
  VICTIM_CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  const winsize size{33, 77, 0, 0};
  termios settings{};
  VICTIM_CHECK(slave >= 0 && ioctl(slave, TIOCSWINSZ, &size) == 0);
  VICTIM_CHECK(tcgetattr(slave, &settings) == 0);
  cfmakeraw(&settings);
  VICTIM_CHECK(tcsetattr(slave, TCSANOW, &settings) == 0 && write(master, "typed", 5) == 5);
  VICTIM_REFUSED("device state cannot move");
  victim_ready();
  victim_wait();
  winsize now{};
  char text[8];
  VICTIM_CHECK(ioctl(slave, TIOCGWINSZ, &now) == 0 && now.ws_row == 33 && now.ws_col == 77);
  VICTIM_CHECK(tcgetattr(slave, &settings) == 0 && (settings.c_lflag & (ECHO | ICANON)) == 0);
  VICTIM_CHECK(read(slave, text, sizeof text) == 5 && std::memcmp(text, "typed", 5) == 0);
  VICTIM_CHECK(write(slave, "said", 4) == 4 && read(master, text, sizeof text) == 4);
  victim_pass();
}
