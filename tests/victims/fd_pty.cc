// A pair of a pseudoterminal, both ends here, that is raw: settings, size, and what waits in it.
#include <sys/ioctl.h>
#include <termios.h>

#include "victim.h"

int main() {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) victim_skip("a pseudoterminal");
  VICTIM_CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  const int quick = open(ptsname(master), O_RDONLY | O_NOCTTY | O_NONBLOCK);
  const winsize size{33, 77, 5, 6};
  termios settings{};
  VICTIM_CHECK(slave >= 0 && quick >= 0 && ioctl(slave, TIOCSWINSZ, &size) == 0);
  VICTIM_CHECK(tcgetattr(slave, &settings) == 0);
  cfmakeraw(&settings);
  settings.c_cc[VMIN] = 3;
  VICTIM_CHECK(tcsetattr(slave, TCSANOW, &settings) == 0);
  // Every byte there is, more than the line discipline keeps, and in the other direction too.
  char typed[10000];
  char said[3000];
  for (unsigned i = 0; i < sizeof typed; ++i) typed[i] = static_cast<char>(i * 7 + i / 256);
  for (unsigned i = 0; i < sizeof said; ++i) said[i] = static_cast<char>(i * 3 + i / 256);
  VICTIM_CHECK(write(master, typed, sizeof typed) == sizeof typed);
  VICTIM_CHECK(write(slave, said, sizeof said) == sizeof said);
  VICTIM_NOTED_BESIDE("its terminal /dev/pts/");
  victim_ready();
  victim_wait();
  winsize now{};
  VICTIM_CHECK(ioctl(slave, TIOCGWINSZ, &now) == 0 && std::memcmp(&now, &size, sizeof now) == 0);
  VICTIM_CHECK(tcgetattr(slave, &settings) == 0 && (settings.c_lflag & (ECHO | ICANON)) == 0);
  VICTIM_CHECK(settings.c_cc[VMIN] == 3);
  VICTIM_CHECK((fcntl(quick, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDONLY | O_NONBLOCK));
  VICTIM_CHECK((fcntl(slave, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == O_RDWR);
  char text[10000];
  for (size_t got = 0; got < sizeof typed;) {
    const ssize_t count = read(slave, text + got, sizeof typed - got);
    VICTIM_CHECK(count > 0);
    got += static_cast<size_t>(count);
  }
  VICTIM_CHECK(std::memcmp(text, typed, sizeof typed) == 0);
  VICTIM_CHECK(read(quick, text, sizeof text) < 0 && errno == EAGAIN);
  for (size_t got = 0; got < sizeof said;) {
    const ssize_t count = read(master, text + got, sizeof said - got);
    VICTIM_CHECK(count > 0);
    got += static_cast<size_t>(count);
  }
  VICTIM_CHECK(std::memcmp(text, said, sizeof said) == 0);
  VICTIM_CHECK(write(slave, "more", 4) == 4 && read(master, text, sizeof text) == 4);
  VICTIM_CHECK(write(master, "typed", 5) == 5 && read(slave, text, sizeof text) == 5);
  victim_pass();
}
