#include "kernel/terminal.h"

#include <string>
#include <utility>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::kernel {
namespace {

using testing::ElementsAre;

struct Terminal {
  Terminal() : master(::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)) {
    EXPECT_TRUE(master);
    EXPECT_EQ(::unlockpt(master.get()), 0);
    slave = open_slave(master, O_RDWR | O_NONBLOCK);
  }

  void type(const std::string& text) const {
    ASSERT_EQ(::write(master.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void say(const std::string& text) const {
    ASSERT_EQ(::write(slave.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void make_raw() const {
    termios settings{};
    ASSERT_EQ(::tcgetattr(slave.get(), &settings), 0);
    ::cfmakeraw(&settings);
    ASSERT_EQ(::tcsetattr(slave.get(), TCSANOW, &settings), 0);
  }
  // Each read(2), up to the one that has nothing.
  static std::vector<std::string> read_all(const UniqueFd& end) {
    std::vector<std::string> all;
    std::string buffer(10000, '\0');
    for (;;) {
      const ssize_t count = ::read(end.get(), buffer.data(), buffer.size());
      if (count < 0) return all;
      all.push_back(buffer.substr(0, static_cast<std::size_t>(count)));
    }
  }
  // What waits is there, and the kernel has made of it what it is to be.
  void await(const UniqueFd& end) const {
    pollfd one{end.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&one, 1, -1), 1);
  }

  UniqueFd master;
  UniqueFd slave;
};

std::string join(const std::vector<std::string>& parts) {
  std::string all;
  for (const std::string& part : parts) all += part;
  return all;
}

std::string every_byte(std::size_t size) {
  std::string text;
  for (std::size_t i = 0; i < size; ++i) text += static_cast<char>(i + i / 256);
  return text;
}

bool can_write(const UniqueFd& end) {
  pollfd one{end.get(), POLLOUT, 0};
  EXPECT_GE(::poll(&one, 1, 0), 0);
  return (one.revents & POLLOUT) != 0;
}

TerminalState take_along(const Terminal& from, const Terminal& to) {
  EXPECT_EQ(terminal_trouble(from.master, from.slave), TerminalTrouble::kNone);
  TerminalState state = read_terminal(from.master, from.slave);
  write_terminal(to.master, to.slave, state);
  return state;
}

TEST(Terminal, KeepsLinesTheirEndsAndHalfALine) {
  Terminal from;
  Terminal to;
  from.type("one\rtwo\004\004half\026\003");
  take_along(from, to);
  for (const Terminal* terminal : {&from, &to}) {
    EXPECT_THAT(Terminal::read_all(terminal->slave), ElementsAre("one\n", "two", ""));
    terminal->type("\177\177f\r");
    terminal->await(terminal->slave);
    EXPECT_THAT(Terminal::read_all(terminal->slave), ElementsAre("half\n"));
  }
}

TEST(Terminal, KeepsBytesInALineThatWouldEndIt) {
  Terminal from;
  Terminal to;
  termios settings{};
  ASSERT_EQ(::tcgetattr(from.slave.get(), &settings), 0);
  settings.c_cc[VEOL] = '#';
  settings.c_cc[VEOL2] = 1;
  ASSERT_EQ(::tcsetattr(from.slave.get(), TCSANOW, &settings), 0);
  from.type("a#b\001c\026#\026\n\026\001\026\002\026\003\026\004\026\026\rhalf\026#");
  take_along(from, to);
  for (const Terminal* terminal : {&from, &to}) {
    EXPECT_THAT(Terminal::read_all(terminal->slave),
                ElementsAre("a#", "b\001", "c#\n\001\002\003\004\026\n"));
    terminal->type("\r");
    terminal->await(terminal->slave);
    EXPECT_THAT(Terminal::read_all(terminal->slave), ElementsAre("half#\n"));
  }
}

TEST(Terminal, KeepsEveryByteInBothDirections) {
  Terminal from;
  Terminal to;
  from.make_raw();
  from.type(every_byte(4000));
  from.say(every_byte(3000));
  take_along(from, to);
  for (const Terminal* terminal : {&from, &to}) {
    EXPECT_EQ(join(Terminal::read_all(terminal->slave)), every_byte(4000));
    EXPECT_EQ(join(Terminal::read_all(terminal->master)), every_byte(3000));
  }
}

TEST(Terminal, KeepsMoreThanTheLineDisciplineDoes) {
  Terminal from;
  Terminal to;
  from.make_raw();
  from.type(every_byte(10'000));
  from.say(every_byte(9'000));
  take_along(from, to);
  for (const Terminal* terminal : {&from, &to}) {
    EXPECT_EQ(join(Terminal::read_all(terminal->slave)), every_byte(10'000));
    EXPECT_EQ(join(Terminal::read_all(terminal->master)), every_byte(9'000));
  }
}

TEST(Terminal, EchoesNothingTwice) {
  Terminal from;
  Terminal to;
  from.type("typed");
  take_along(from, to);
  EXPECT_EQ(join(Terminal::read_all(from.master)), "typed");
  EXPECT_EQ(join(Terminal::read_all(to.master)), "typed");
}

TEST(Terminal, KeepsSettingsSizeAndPacketMode) {
  Terminal from;
  Terminal to;
  termios settings{};
  ASSERT_EQ(::tcgetattr(from.slave.get(), &settings), 0);
  settings.c_lflag &= ~static_cast<tcflag_t>(ECHO);
  settings.c_cc[VERASE] = '@';
  ASSERT_EQ(::tcsetattr(from.slave.get(), TCSANOW, &settings), 0);
  const winsize size{10, 20, 30, 40};
  ASSERT_EQ(::ioctl(from.slave.get(), TIOCSWINSZ, &size), 0);
  int on = 1;
  ASSERT_EQ(::ioctl(from.master.get(), TIOCPKT, &on), 0);
  from.say("said");
  const TerminalState state = take_along(from, to);
  restrict_terminal(to.master, to.slave, state);
  for (const Terminal* terminal : {&from, &to}) {
    termios now{};
    ASSERT_EQ(::tcgetattr(terminal->slave.get(), &now), 0);
    EXPECT_EQ(now.c_lflag, settings.c_lflag);
    EXPECT_EQ(now.c_cc[VERASE], '@');
    winsize there{};
    ASSERT_EQ(::ioctl(terminal->slave.get(), TIOCGWINSZ, &there), 0);
    EXPECT_EQ(there.ws_row, 10);
    EXPECT_EQ(there.ws_ypixel, 40);
    EXPECT_THAT(Terminal::read_all(terminal->master), ElementsAre(std::string("\0said", 5)));
  }
}

TEST(Terminal, IsLockedAndExclusiveOnlyAtLast) {
  Terminal from;
  Terminal to;
  int on = 1;
  ASSERT_EQ(::ioctl(from.master.get(), TIOCSPTLCK, &on), 0);
  ASSERT_EQ(::ioctl(from.slave.get(), TIOCEXCL), 0);
  const TerminalState state = take_along(from, to);
  EXPECT_TRUE(open_slave(to.master, O_RDWR));
  restrict_terminal(to.master, to.slave, state);
  for (const Terminal* terminal : {&from, &to}) {
    int value = 0;
    EXPECT_EQ(::ioctl(terminal->master.get(), TIOCGPTLCK, &value), 0);
    EXPECT_EQ(value, 1);
    EXPECT_EQ(::ioctl(terminal->slave.get(), TIOCGEXCL, &value), 0);
    EXPECT_EQ(value, 1);
    EXPECT_EQ(::ioctl(terminal->master.get(), TIOCGEXCL, &value), 0);
    EXPECT_EQ(value, 0);
  }
}

TEST(Terminal, IsStoppedAsItWas) {
  Terminal by_character;
  Terminal by_call;
  by_character.type("\023");
  while (can_write(by_character.slave)) continue;
  ASSERT_EQ(::tcflow(by_call.slave.get(), TCOOFF), 0);
  ASSERT_EQ(::tcflow(by_call.master.get(), TCOOFF), 0);
  Terminal first;
  Terminal second;
  EXPECT_EQ(take_along(by_character, first).slave_stop, TerminalState::Stop::kByCharacter);
  EXPECT_EQ(take_along(by_call, second).slave_stop, TerminalState::Stop::kByCall);
  EXPECT_FALSE(can_write(second.slave));
  EXPECT_FALSE(can_write(second.master));
  while (can_write(first.slave)) continue;
  first.type("\021");
  while (!can_write(first.slave)) continue;
  ASSERT_EQ(::tcflow(second.master.get(), TCOON), 0);
  second.type("\021");  // which is not what lets it go on
  second.type("typed\r");
  second.await(second.slave);
  EXPECT_FALSE(can_write(second.slave));
}

TEST(Terminal, IsNotTakenWithAStatusOrTooManyLines) {
  Terminal packets;
  int on = 1;
  ASSERT_EQ(::ioctl(packets.master.get(), TIOCPKT, &on), 0);
  ASSERT_EQ(::tcflush(packets.slave.get(), TCIFLUSH), 0);
  EXPECT_EQ(terminal_trouble(packets.master, {}), TerminalTrouble::kUnread);
  Terminal lines;
  for (int i = 0; i < 20; ++i) lines.type(std::string(200, 'x') + '\r');
  int unread = 0;
  while (unread < 20 * 201 - 300) ASSERT_EQ(::ioctl(lines.slave.get(), FIONREAD, &unread), 0);
  EXPECT_EQ(terminal_trouble(lines.master, lines.slave), TerminalTrouble::kUnread);
}

}  // namespace
}  // namespace telefork::kernel
