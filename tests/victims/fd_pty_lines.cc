// A pseudoterminal that has lines: some that wait, two ends of file, and half a line with a byte
// that is quoted in it; and its echo, which nobody has read.
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "victim.h"

namespace {

void expect(int fd, const char* text) {
  char read_text[256] = {};
  const ssize_t count = read(fd, read_text, sizeof read_text);
  if (count == static_cast<ssize_t>(std::strlen(text)) &&
      std::memcmp(read_text, text, std::strlen(text)) == 0) {
    return;
  }
  victim_fail("read %zd bytes '%.*s' instead of '%s'", count, static_cast<int>(count), read_text,
              text);
}

}  // namespace

int main() {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) victim_skip("a pseudoterminal");
  VICTIM_CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_NONBLOCK);
  VICTIM_CHECK(slave >= 0);
  const int epoll = epoll_create1(0);
  epoll_event watched{EPOLLIN, {}};
  VICTIM_CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, slave, &watched) == 0);
  // one, two and its end, an end alone; then half a line: ^C quoted by ^V, and ^? takes a letter.
  const char typed[] = "one\rtwo\004\004hal\026\003fx\177";
  VICTIM_CHECK(write(master, typed, sizeof typed - 1) == sizeof typed - 1);
  VICTIM_CHECK(epoll_wait(epoll, &watched, 1, -1) == 1);
  // What it echoes comes at once, and with it the kernel has taken all.
  const char echo[] = "one\r\ntwohal^\b^Cfx\b \b";
  int unread = 0;
  while (unread < static_cast<int>(sizeof echo - 1)) {
    VICTIM_CHECK(ioctl(master, FIONREAD, &unread) == 0);
    sched_yield();
  }
  VICTIM_NOTED_BESIDE("its terminal /dev/pts/");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(epoll_wait(epoll, &watched, 1, 0) == 1);
  expect(slave, "one\n");
  expect(slave, "two");
  expect(slave, "");
  char text[8];
  VICTIM_CHECK(read(slave, text, sizeof text) < 0 && errno == EAGAIN);
  VICTIM_CHECK(epoll_wait(epoll, &watched, 1, 0) == 0);
  expect(master, echo);
  // What was typed can still be edited: the f goes, and what comes is of the same line.
  VICTIM_CHECK(write(master, "\177ve\r", 4) == 4);
  VICTIM_CHECK(epoll_wait(epoll, &watched, 1, -1) == 1);
  expect(slave, "hal\003ve\n");
  victim_pass();
}
