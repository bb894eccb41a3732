// The standard streams of a child.
#include <cstdio>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

// Text in which every place is another one.
std::string numbered_lines(std::size_t size) {
  std::string text;
  for (int i = 0; text.size() < size; ++i) text += std::to_string(i) + "\n";
  text.resize(size);
  return text;
}

bool is_null_device(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
}

TEST_P(AFork, BringsAllOutputHomeBeforeTheStatus) {
  const std::string text = numbered_lines(1 << 20);
  Outcome outcome = run([&] {
    listen_to_children();
    require(fcntl(0, F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
    const pid_t pid = fork_child(node(), [&] {
      write_all(1, text);
      return 3;
    });
    require_equal(end_of(pid), exited(3));
    // All of it lies in the pipe now, and nothing more is to come.
    close(1);
    require(fcntl(0, F_SETFL, O_NONBLOCK) == 0);
    require(read_all(0) == text);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, BringsStdoutAndStderrHomeApart) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      for (int i = 0; i < 1000; ++i) {
        write_all(1, "out\n");
        write_all(2, "err\n");
      }
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_EQ(outcome.end, exited(0));
  EXPECT_EQ(outcome.out.size(), 4000U);
  EXPECT_EQ(outcome.err.size(), 4000U);
  EXPECT_EQ(outcome.out.find("err"), std::string::npos);
  EXPECT_EQ(outcome.err.find("out"), std::string::npos);
}

TEST_P(AFork, KeepsTheOrderWhereStdoutAndStderrAreOne) {
  Outcome outcome = run([this] {
    require(dup2(1, 2) == 2);
    const pid_t pid = fork_child(node(), [] {
      for (int i = 0; i < 500; ++i) write_all(1 + i % 2, std::to_string(i) + "\n");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  std::string expected;
  for (int i = 0; i < 500; ++i) expected += std::to_string(i) + "\n";
  EXPECT_EQ(outcome.end, exited(0));
  EXPECT_EQ(outcome.out, expected);
}

TEST_P(AFork, GivesTheStatusThoughHomeReadsItsLastOutputLate) {
  const std::string text = numbered_lines(300'000);  // more than a pipe holds
  Program program = start([&] {
    const pid_t pid = fork_child(node(), [&] {
      write_all(2, std::to_string(getpid()) + "\n");
      write_all(1, text);
      return 8;
    });
    require_equal(end_of(pid), exited(8));
  });
  // What is home, under way and in the pipes there is enough for the child to end.
  const pid_t guest = std::atoi(read_line(program.err).c_str());
  await_gone(guest);
  Outcome outcome = finish(program);
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, text);
}

TEST_P(AFork, WritesOnWhereHomeLeftItsFile) {
  Outcome outcome = run([this] {
    const int file = open(path("log").c_str(), O_RDWR | O_CREAT, 0600);
    require(dup2(file, 1) == 1 && close(file) == 0);
    write_all(1, "home ");
    const pid_t pid = fork_child(node(), [] {
      write_all(1, "away ");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    write_all(1, "home");
    require_equal(read_file(path("log")), "home away home");
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, FlushesStdioBuffersAtItsExit) {
  Outcome outcome = run([this] {
    std::printf("before ");
    std::fflush(stdout);
    const pid_t pid = fork_child(node(), [] {
      std::printf("in the child\n");
      std::exit(2);
      return 1;
    });
    require_equal(end_of(pid), exited(2));
  });
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, "before in the child\n");
}

TEST_P(AFork, KillsByAPipeThatNobodyReadsAtHome) {
  Outcome outcome = run([this] {
    listen_to_children();
    const pid_t pid = fork_child(node(), []() -> int {
      for (;;) write_all(1, "is anybody there?\n");
    });
    read_line();
    close(0);
    require_equal(end_of(pid), killed(SIGPIPE));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, HasNoStdoutWhereHomeHasNone) {
  Outcome outcome = run([this] {
    close(1);
    const pid_t pid = fork_child(node(), [] {
      return write(1, "x", 1) == -1 && errno == EBADF && write(2, "", 0) == 0 ? 4 : 5;
    });
    require_equal(end_of(pid), exited(4));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, ReadsNothingFromStdin) {
  Outcome outcome = run([this] {
    int ends[2];
    require(pipe(ends) == 0);
    write_all(ends[1], "for home");
    require(dup2(ends[0], 0) == 0);
    close(ends[0]);
    close(ends[1]);
    const pid_t pid = fork_child(node(), [] {
      require(is_null_device(0));
      return static_cast<int>(read_all(0).size());
    });
    require_equal(end_of(pid), exited(0));
    require_equal(read_all(0), "for home");
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, ReadsNothingFromStdinWhereAllStreamsAreOne) {
  Outcome outcome = run([this] {
    int ends[2];
    require(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    for (int fd : {0, 1, 2}) require(dup2(ends[1], fd) == fd);
    close(ends[1]);
    telefork::Options options;
    options.fds = telefork::Fds::leave_home;
    const pid_t pid = fork_child(
        node(),
        [] {
          char byte;
          return static_cast<int>(read(0, &byte, 1)) + 40;
        },
        options);
    const std::string end = end_of(pid);
    close(ends[0]);
    if (end != exited(40)) _exit(1);
  });
  EXPECT_EQ(outcome.end, exited(0));
}

TEST_P(AFork, TakesARegularFileAtStdinAlong) {
  make_file(path("input"), "0123456789");
  Outcome outcome = run([this] {
    const int file = open(path("input").c_str(), O_RDONLY);
    require(dup2(file, 0) == 0 && close(file) == 0);
    char head[4];
    require(read(0, head, 4) == 4);
    const pid_t pid = fork_child(node(), [] {
      require_equal(read_all(0), "456789");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, TakesStdinWhereToldTo) {
  const std::string text = numbered_lines(500'000);
  make_file(path("input"), text);
  Outcome outcome = run([&] {
    int ends[2];
    require(pipe(ends) == 0);
    require(dup2(ends[0], 0) == 0 && close(ends[0]) == 0);
    const pid_t writer = ::fork();
    if (writer == 0) {
      close(0);
      write_all(ends[1], text);
      _exit(0);
    }
    close(ends[1]);
    telefork::Options options;
    options.standard_input = telefork::StandardInput::take;
    const pid_t pid = fork_child(
        node(),
        [&] {
          require(!is_null_device(0));
          require(read_all(0) == text);
          return 5;
        },
        options);
    require_equal(end_of(pid), exited(5));
    require_equal(end_of(writer), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
