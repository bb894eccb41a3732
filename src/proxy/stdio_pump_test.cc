#include "proxy/stdio_pump.h"

#include <csignal>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cstdlib>

#include "base/error.h"
#include "net/fd_stream.h"
#include "net/stream.h"

namespace telefork::proxy {
namespace {

using net::Deadline;
using protocol::Link;
using protocol::schema::Message;
using namespace std::chrono_literals;

// Both ends of a session's stdio in one thread, each stepped like its process's poll loop.
class StdioPumpTest : public ::testing::Test {
 protected:
  struct End {
    std::unique_ptr<Link> link;
    std::optional<StdioPump> pump;
  };
  StdioPumpTest() {
    ::signal(SIGPIPE, SIG_IGN);
    auto [one, other] = net::make_stream_pair();
    home_.link = std::make_unique<Link>("keeper", std::move(one), nullptr);
    keeper_.link = std::make_unique<Link>("home", std::move(other), nullptr);
  }
  // Home's stdin and stdout, and the guest's, are pipes of which the tests have the other ends.
  void start() {
    auto [home_in, user_in] = make_pipe();
    auto [user_out, home_out] = make_pipe();
    auto [guest_in, keeper_in] = make_pipe();
    auto [keeper_out, guest_out] = make_pipe();
    home_.pump = StdioPump::at_home(*home_.link, std::move(home_in), std::move(home_out), {});
    keeper_.pump =
        StdioPump::at_keeper(*keeper_.link, std::move(keeper_in), std::move(keeper_out), {});
    user_in_ = std::move(user_in);
    user_out_ = std::move(user_out);
    guest_in_ = std::move(guest_in);
    guest_out_ = std::move(guest_out);
    for (UniqueFd* fd : {&user_in_, &user_out_, &guest_in_, &guest_out_}) {
      ::fcntl(fd->get(), F_SETFL, O_NONBLOCK);  // the tests' own ends
    }
  }
  static bool step(End& end) {
    std::vector<pollfd> entries = end.link->poll_entries();
    end.pump->add_interest(entries);
    bool moved = net::poll_until(entries, Deadline::now()) > 0;
    end.pump->on_ready(entries);
    while (auto message = end.link->try_receive()) {
      EXPECT_TRUE(end.pump->on_message(*message));
      moved = true;
    }
    return moved;
  }
  // Until nothing moves any more.
  void run() {
    while (true) {
      bool home_moved = step(home_);
      bool keeper_moved = step(keeper_);
      if (!home_moved && !keeper_moved) return;
    }
  }
  static std::size_t write_all_that_fits(const UniqueFd& fd) {
    std::string chunk(4096, 'x');
    std::size_t total = 0;
    for (ssize_t n; (n = ::write(fd.get(), chunk.data(), chunk.size())) > 0;) {
      total += static_cast<std::size_t>(n);
    }
    return total;
  }
  static std::string read_all_there_is(const UniqueFd& fd) {
    std::string all;
    char buffer[65536];
    for (ssize_t n; (n = ::read(fd.get(), buffer, sizeof(buffer))) > 0;) {
      all.append(buffer, static_cast<std::size_t>(n));
    }
    return all;
  }
  static void write_text(const UniqueFd& fd, std::string_view text) {
    ASSERT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  static bool at_end(const UniqueFd& fd) {
    char byte;
    return ::read(fd.get(), &byte, 1) == 0;
  }

  End home_;
  End keeper_;
  UniqueFd user_in_;
  UniqueFd user_out_;
  UniqueFd guest_in_;
  UniqueFd guest_out_;
};

TEST_F(StdioPumpTest, CarriesOutputHomeAndInputThere) {
  start();
  write_text(guest_out_, "hello from there");
  write_text(user_in_, "hello from here");
  run();
  EXPECT_EQ(read_all_there_is(user_out_), "hello from there");
  EXPECT_EQ(read_all_there_is(guest_in_), "hello from here");
}

TEST_F(StdioPumpTest, GivesTheGuestTheEndOfItsInput) {
  start();
  write_text(user_in_, "last line");
  user_in_.reset();
  run();
  EXPECT_EQ(read_all_there_is(guest_in_), "last line");
  EXPECT_TRUE(at_end(guest_in_));
}

TEST_F(StdioPumpTest, BlocksTheGuestWhenHomeDoesNotReadAndLosesNothing) {
  start();
  std::size_t written = 0;
  for (std::size_t before = 1; before != written;) {
    before = written;
    written += write_all_that_fits(guest_out_);
    run();
  }
  // Two pipes and the window lie between the guest and the user.
  EXPECT_LE(written, kStdioWindow + std::size_t{4} * 65536);
  EXPECT_FALSE(home_.pump->idle());
  std::size_t received = 0;
  for (std::size_t before = 1; before != received;) {
    before = received;
    received += read_all_there_is(user_out_).size();
    run();
  }
  EXPECT_EQ(received, written);
  EXPECT_TRUE(home_.pump->idle());
}

TEST_F(StdioPumpTest, CarriesManyWindowsFull) {
  start();
  std::size_t written = 0;
  std::size_t received = 0;
  while (written < 10 * kStdioWindow) {
    written += write_all_that_fits(guest_out_);
    run();
    received += read_all_there_is(user_out_).size();
  }
  guest_out_.reset();
  for (std::size_t before = 0; before != received;) {
    before = received;
    run();
    received += read_all_there_is(user_out_).size();
  }
  EXPECT_EQ(received, written);
}

TEST_F(StdioPumpTest, BreaksTheGuestsPipeWhenNobodyReadsAtHome) {
  start();
  user_out_.reset();
  write_text(guest_out_, "to nobody");
  run();
  EXPECT_EQ(::write(guest_out_.get(), "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  EXPECT_TRUE(home_.pump->idle());
  EXPECT_FALSE(home_.pump->loss());
}

TEST_F(StdioPumpTest, TellsWhatCouldNotBeWrittenThoughSomebodyWouldReadIt) {
  start();
  home_.pump = StdioPump::at_home(*home_.link, {}, open_file("/dev/full", O_WRONLY), {});
  write_text(guest_out_, "to a full disk");
  run();
  EXPECT_EQ(::write(guest_out_.get(), "x", 1), 1);
  run();
  EXPECT_TRUE(home_.pump->idle());
  ASSERT_TRUE(home_.pump->loss());
  EXPECT_EQ(home_.pump->loss()->text(), "writing its stdout: No space left on device");
  EXPECT_EQ(home_.pump->loss()->code(), Code::kResources);
}

// More than a window: credit is given for what was thrown away.
TEST_F(StdioPumpTest, WritesAgainWhenThereIsRoomAgain) {
  start();
  const std::string path = ::testing::TempDir() + "/stdio_pump_test." + std::to_string(::getpid());
  UniqueFd file = open_file(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  home_.pump = StdioPump::at_home(*home_.link, {}, file.duplicate(), {});
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4, before.rlim_max};
  ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  for (int i = 0; i < 8; ++i) {
    write_all_that_fits(guest_out_);
    run();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  write_text(guest_out_, "last words");
  run();
  char text[32] = {};
  EXPECT_EQ(::pread(file.get(), text, sizeof text - 1, 0), 14);
  EXPECT_STREQ(text, "xxxxlast words");
  EXPECT_EQ(home_.pump->loss()->text(), "writing its stdout: File too large");
  ::unlink(path.c_str());
}

TEST_F(StdioPumpTest, GoesOnWithoutALossWhenTheTerminalIsGone) {
  start();
  UniqueFd terminal(::posix_openpt(O_RDWR | O_NOCTTY));
  ASSERT_TRUE(::grantpt(terminal.get()) == 0 && ::unlockpt(terminal.get()) == 0);
  home_.pump = StdioPump::at_home(*home_.link, {},
                                  open_file(::ptsname(terminal.get()), O_RDWR | O_NOCTTY), {});
  terminal.reset();
  for (int i = 0; i < 8; ++i) {
    ASSERT_GT(write_all_that_fits(guest_out_), 0U);
    run();
  }
  EXPECT_TRUE(home_.pump->idle());
  EXPECT_FALSE(home_.pump->loss());
}

TEST_F(StdioPumpTest, StopsReadingInputThatTheGuestClosed) {
  start();
  guest_in_.reset();
  write_text(user_in_, "to nobody");
  run();
  EXPECT_TRUE(home_.pump->senders_ended());
}

TEST_F(StdioPumpTest, KnowsWhatTheGuestHasClosed) {
  start();
  run();
  for (unsigned stream : {0U, 1U}) EXPECT_FALSE(home_.pump->closed_by_guest(stream));
  EXPECT_TRUE(home_.pump->closed_by_guest(2));
  guest_in_.reset();
  guest_out_.reset();
  write_text(user_in_, "nobody reads this");
  run();
  for (unsigned stream : {0U, 1U}) EXPECT_TRUE(home_.pump->closed_by_guest(stream));
}

TEST_F(StdioPumpTest, KnowsWhatInputDidNotFitIntoTheGuestsPipe) {
  start();
  std::string sent;
  while (sent.size() < 3 * 65536) {
    sent += std::string(write_all_that_fits(user_in_), 'x');
    run();
  }
  std::vector<std::byte> waiting = keeper_.pump->undelivered_input();
  EXPECT_EQ(waiting, keeper_.pump->undelivered_input());
  EXPECT_EQ(waiting.size() + read_all_there_is(guest_in_).size(), sent.size());
}

TEST_F(StdioPumpTest, TellsTheGuestThatAClosedStreamOfHomeHasNoReader) {
  auto [keeper_err, guest_err] = make_pipe();
  home_.pump = StdioPump::at_home(*home_.link, {}, {}, {});
  keeper_.pump = StdioPump::at_keeper(*keeper_.link, {}, {}, std::move(keeper_err));
  write_text(guest_err, "x");
  run();
  EXPECT_EQ(::write(guest_err.get(), "x", 1), -1);
}

TEST_F(StdioPumpTest, ReadsNoInputWhilePaused) {
  start();
  home_.pump->set_input_paused(true);
  write_text(user_in_, "typed in the background");
  run();
  EXPECT_EQ(read_all_there_is(guest_in_), "");
  home_.pump->set_input_paused(false);
  run();
  EXPECT_EQ(read_all_there_is(guest_in_), "typed in the background");
}

TEST_F(StdioPumpTest, DrainsTheLastOutputAtOnceWhenThePipeEnds) {
  start();
  write_text(guest_out_, "last words");
  guest_out_.reset();
  keeper_.pump->begin_drain();
  EXPECT_TRUE(keeper_.pump->drained());
  run();
  EXPECT_TRUE(home_.pump->idle());
  EXPECT_EQ(read_all_there_is(user_out_), "last words");
}

// A status that the keeper sends next comes after all of it.
TEST_F(StdioPumpTest, TellsTheEndOfAPipeThatNobodyHoldsWithTheLastOfIt) {
  for (const char* last : {"last words", ""}) {
    start();
    if (*last != '\0') write_text(guest_out_, last);
    guest_out_.reset();
    keeper_.pump->begin_drain();
    EXPECT_TRUE(keeper_.pump->drained());
    while (step(home_)) {
    }
    EXPECT_EQ(read_all_there_is(user_out_), last);
    EXPECT_TRUE(at_end(user_out_));
  }
}

TEST_F(StdioPumpTest, DrainsThoughADescendantHoldsThePipeAndGoesOnWriting) {
  start();
  write_text(guest_out_, "last words");
  keeper_.pump->begin_drain();
  EXPECT_TRUE(keeper_.pump->drained());
  EXPECT_FALSE(keeper_.pump->senders_ended());
  write_text(guest_out_, ", and the descendant's");
  run();
  EXPECT_EQ(read_all_there_is(user_out_), "last words, and the descendant's");
}

TEST_F(StdioPumpTest, DrainsMoreThanAWindowOnlyAsHomeReads) {
  start();
  // A window and two pipes full.
  for (int i = 0; i < 8; ++i) {
    write_all_that_fits(guest_out_);
    run();
  }
  keeper_.pump->begin_drain();
  EXPECT_FALSE(keeper_.pump->drained());
  while (!keeper_.pump->drained()) {
    ASSERT_FALSE(read_all_there_is(user_out_).empty());
    run();
  }
}

TEST_F(StdioPumpTest, NeverTouchesTheStatusFlagsOfHomesDescriptors) {
  auto [user, home_out] = make_socket_pair(SOCK_STREAM);
  auto [user_end, home_pipe] = make_pipe();
  UniqueFd socket_too = home_out.duplicate();
  UniqueFd pipe_too = home_pipe.duplicate();
  home_.pump = StdioPump::at_home(*home_.link, {}, std::move(home_out), std::move(home_pipe));
  EXPECT_EQ(::fcntl(socket_too.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(pipe_too.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(StdioPumpTest, RefusesMoreBytesOrCreditThanAllowed) {
  start();
  auto send_data = [&](unsigned stream, std::size_t size) {
    std::string text(size, 'x');
    keeper_.link->send([&](Message::Builder message) {
      auto data = message.initStdioData();
      data.setStream(stream);
      data.setData({reinterpret_cast<const kj::byte*>(text.data()), text.size()});
    });
  };
  send_data(1, kStdioWindow + 1);
  EXPECT_THROW(run(), Error);
  send_data(3, 1);
  EXPECT_THROW(run(), Error);
  keeper_.link->send([&](Message::Builder message) { message.initStdioCredit().setBytes(1); });
  EXPECT_THROW(run(), Error);
}

TEST_F(StdioPumpTest, LeavesOtherMessagesToTheCaller) {
  start();
  keeper_.link->send([](Message::Builder message) { message.setFinished(); });
  EXPECT_FALSE(home_.pump->on_message(home_.link->receive(Deadline::in(10s))));
}

}  // namespace
}  // namespace telefork::proxy
