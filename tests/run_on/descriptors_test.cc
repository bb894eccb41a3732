// What the function did to descriptors is so here: every one, and which of them share an open file
// description, is as it would be after the same function without a call.
#include <algorithm>
#include <cstdio>
#include <sstream>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"

namespace fork_test {
namespace {

bool share(int a, int b) { return ::syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b) == 0; }

std::string link_of(int fd) {
  char text[4096];
  ssize_t size = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), text, sizeof(text));
  require(size > 0);
  return {text, static_cast<std::size_t>(size)};
}

// Each descriptor in a line, sockets aside, among which telefork's are.
std::string describe_descriptors() {
  std::ostringstream text;
  std::vector<int> before;
  std::vector<std::string> pipes;  // by their first appearance: each run has others
  for (int fd : open_descriptors()) {
    std::string name = link_of(fd);
    if (name.starts_with("socket:")) continue;
    if (fd > 2 && name.starts_with("pipe:")) {
      auto known = std::find(pipes.begin(), pipes.end(), name);
      if (known == pipes.end()) known = pipes.insert(pipes.end(), name);
      name = "pipe " + std::to_string(known - pipes.begin());
    }
    auto same =
        std::find_if(before.begin(), before.end(), [fd](int one) { return share(one, fd); });
    text << fd << " -> " << name << ", at " << ::lseek(fd, 0, SEEK_CUR) << ", flags "
         << ::fcntl(fd, F_GETFL) << " " << ::fcntl(fd, F_GETFD) << ", signal "
         << ::fcntl(fd, F_GETSIG);
    if (same != before.end()) text << ", the same as " << *same;
    text << "\n";
    before.push_back(fd);
  }
  return text.str();
}

void close_files() {
  for (int fd : open_descriptors()) {
    if (fd > 2 && !link_of(fd).starts_with("socket:")) ::close(fd);
  }
}

// What `function` makes of the descriptors that `prepare` has opened, without a call.
std::string after_a_plain_call(const Body& prepare, const Body& function) {
  int ends[2];
  require_equal(::pipe2(ends, O_CLOEXEC), 0);
  pid_t pid = ::fork();
  require(pid >= 0);
  if (pid == 0) {
    ::close(ends[0]);
    const int told = ::fcntl(ends[1], F_DUPFD_CLOEXEC, 500);
    ::close(ends[1]);
    prepare();
    function();
    std::string all = describe_descriptors();
    // But for the pipe that tells it.
    write_all(told, all.substr(0, all.rfind("500 -> ")));
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string all = read_all(ends[0]);
  ::close(ends[0]);
  require_equal(status_of(pid, 0), exited(0));
  return all;
}

class ACallAboutDescriptors : public AFork {
 protected:
  // Of a thread that is not the only one.
  void expect_as_without_a_call(const Body& prepare, const Body& function,
                                const telefork::Options& options = {}) {
    Outcome outcome = run([&, this] {
      const std::string expected = after_a_plain_call(prepare, function);
      prepare();
      std::thread caller([&] { call_on(node(), function, options); });
      caller.join();
      require_equal(describe_descriptors(), expected);
      close_files();
    });
    EXPECT_TRUE(went_well(outcome));
  }

  std::string file(const std::string& name) const {
    make_file(path(name), "0123456789");
    return path(name);
  }
};

int open_at(int number, const std::string& path, int flags) {
  int fd = ::open(path.c_str(), flags, 0600);
  require(fd >= 0);
  if (fd == number) return fd;
  require_equal(::dup2(fd, number), number);
  ::close(fd);
  return number;
}

void swap(int a, int b) {
  int aside = ::dup(a);
  require(aside >= 0);
  require_equal(::dup2(b, a), a);
  require_equal(::dup2(aside, b), b);
  ::close(aside);
}

void make_pipe_at(int number) {
  int ends[2];
  require_equal(::pipe(ends), 0);
  const int read_end = ::fcntl(ends[0], F_DUPFD, number);
  const int write_end = ::fcntl(ends[1], F_DUPFD, number + 1);
  ::close(ends[0]);
  ::close(ends[1]);
  require_equal(read_end, number);
  require_equal(write_end, number + 1);
}

TEST_P(ACallAboutDescriptors, LeavesStderrWhereOnlyStdoutIsRedirected) {
  const std::string log = file("log");
  expect_as_without_a_call([] { require_equal(::dup2(1, 2), 2); },
                           [log] {
                             ::close(1);
                             require_equal(::open(log.c_str(), O_WRONLY | O_APPEND), 1);
                           });
  expect_as_without_a_call([] { require_equal(::dup2(2, 1), 1); },
                           [log] { require(::freopen(log.c_str(), "w", stdout) != nullptr); });
}

TEST_P(ACallAboutDescriptors, SwapsStandardStreams) {
  expect_as_without_a_call([] {}, [] { swap(1, 2); });
  expect_as_without_a_call([] {},
                           [] {
                             require_equal(::dup2(2, 1), 1);
                             require_equal(::dup3(2, 9, O_CLOEXEC), 9);
                           });
}

TEST_P(ACallAboutDescriptors, KeepsTheFlagOfAStreamThatExecClosesIt) {
  expect_as_without_a_call([] {}, [] { require_equal(::fcntl(1, F_SETFD, FD_CLOEXEC), 0); });
}

TEST_P(ACallAboutDescriptors, KnowsAStdinThatWasOpenedThereFromTheOneHere) {
  auto prepare = [] {
    make_pipe_at(10);
    require_equal(::dup2(10, 0), 0);
    ::close(10);
  };
  telefork::Options options;
  options.fds = telefork::Fds::leave_home;
  expect_as_without_a_call(
      prepare,
      [] {
        ::close(0);
        require_equal(::open("/dev/null", O_RDONLY), 0);
      },
      options);
  expect_as_without_a_call(
      prepare,
      [] {
        require_equal(::dup2(0, 9), 9);
        ::close(0);
      },
      options);
}

TEST_P(ACallAboutDescriptors, SwapsFiles) {
  const std::string one = file("one"), other = file("other");
  auto prepare = [one, other] {
    ::lseek(open_at(5, one, O_RDWR), 1, SEEK_SET);
    ::lseek(open_at(6, other, O_RDWR | O_APPEND), 2, SEEK_SET);
    ::lseek(open_at(7, one, O_RDWR), 3, SEEK_SET);
  };
  expect_as_without_a_call(prepare, [] { swap(5, 6); });
  // Two of one file, which are alike but for their positions.
  expect_as_without_a_call(prepare, [] { swap(5, 7); });
  expect_as_without_a_call(prepare, [] {
    ::lseek(5, 3, SEEK_SET);
    swap(5, 7);
    swap(6, 7);
    ::lseek(5, 8, SEEK_SET);
  });
}

TEST_P(ACallAboutDescriptors, JoinsTwoOfOneFile) {
  const std::string one = file("one");
  auto prepare = [one] {
    open_at(5, one, O_RDWR);
    open_at(6, one, O_RDWR);
  };
  expect_as_without_a_call(prepare, [] {
    require_equal(::dup2(5, 6), 6);
    ::lseek(5, 3, SEEK_SET);
  });
  expect_as_without_a_call(prepare, [] {
    require_equal(::dup3(6, 5, O_CLOEXEC), 5);
    require_equal(::fcntl(6, F_DUPFD, 20), 20);
    ::close(6);
  });
}

TEST_P(ACallAboutDescriptors, PartsTwoOfOneDescription) {
  const std::string one = file("one");
  auto prepare = [one] {
    open_at(5, one, O_RDWR);
    require_equal(::dup2(5, 6), 6);
  };
  auto part = [one](int fd) {
    ::close(fd);
    open_at(fd, one, O_RDWR);
    ::lseek(5, 2, SEEK_SET);
    ::lseek(6, 7, SEEK_SET);
  };
  expect_as_without_a_call(prepare, [part] { part(5); });
  expect_as_without_a_call(prepare, [part] { part(6); });
}

// After the call it is known by whoever shares it here.
TEST_P(ACallAboutDescriptors, KeepsTheDescriptionThatOthersHereHave) {
  const std::string one = file("one");
  for (bool reopens : {false, true}) {
    Outcome outcome = run([&, this] {
      int ends[2];
      require_equal(::pipe(ends), 0);
      open_at(9, one, O_RDWR);
      pid_t other = ::fork();
      require(other >= 0);
      if (other == 0) {
        ::close(ends[1]);
        require_equal(read_all(ends[0]), std::string());
        ::_exit(static_cast<int>(::lseek(9, 0, SEEK_CUR)));
      }
      ::close(ends[0]);
      telefork::Options options;
      options.fds = telefork::Fds::leave_home;
      call_on(
          node(),
          [&] {
            if (reopens) {
              ::close(9);
              open_at(9, one, O_RDWR);
            } else {
              require_equal(::dup2(9, 8), 8);
              ::close(9);
            }
          },
          options);
      ::lseek(reopens ? 9 : 8, 5, SEEK_SET);
      ::close(ends[1]);
      require_equal(status_of(other, 0), exited(reopens ? 0 : 5));
      close_files();
    });
    EXPECT_TRUE(went_well(outcome));
  }
}

TEST_P(ACallAboutDescriptors, SwapsWhatStayedHere) {
  telefork::Options options;
  options.fds = telefork::Fds::leave_home;
  auto prepare = [] {
    make_pipe_at(10);
    make_pipe_at(12);
  };
  expect_as_without_a_call(
      prepare, [] { swap(10, 12); }, options);
  expect_as_without_a_call(
      prepare,
      [] {
        require_equal(::dup3(11, 13, O_CLOEXEC), 13);
        require_equal(::fcntl(12, F_DUPFD, 20), 20);
        ::close(12);
        require(::open("/dev/null", O_PATH) >= 0);
      },
      options);
}

TEST_P(ACallAboutDescriptors, SwapsThoseThatOnlyNameAFile) {
  const std::string one = file("one");
  auto prepare = [one] {
    open_at(5, one, O_PATH);
    open_at(6, one, O_PATH);
    open_at(7, "/", O_PATH | O_DIRECTORY);
    require_equal(::dup2(5, 8), 8);
  };
  expect_as_without_a_call(prepare, [one] {
    swap(5, 6);
    swap(6, 7);
    ::close(8);
    open_at(8, one, O_PATH);
  });
}

TEST_P(ACallAboutDescriptors, KnowsManyOfOneFileApart) {
  constexpr int kMany = 70;
  constexpr int kFirst = 100;
  const std::string one = file("one");
  auto prepare = [one] {
    for (int i = 0; i < kMany; ++i) ::lseek(open_at(kFirst + i, one, O_RDONLY), i, SEEK_SET);
  };
  expect_as_without_a_call(prepare, [] {
    for (int i = 0; i + 1 < kMany; ++i) swap(kFirst + i, kFirst + i + 1);
    require_equal(::dup2(kFirst + kMany - 2, kFirst + 3), kFirst + 3);
    ::close(kFirst);
  });
}

// Each node knows what came to it, and what came with that from home.
TEST_P(ACallAboutDescriptors, BringsThemHomeFromACallWithinACall) {
  const std::string one = file("one");
  auto prepare = [one] {
    for (int fd : {5, 6, 7}) ::lseek(open_at(fd, one, O_RDWR), fd, SEEK_SET);
    require_equal(::dup2(5, 8), 8);
  };
  auto outer = [] { swap(5, 6); };
  auto inner = [one] {
    swap(6, 7);
    ::close(8);
    open_at(8, one, O_RDWR);
  };
  Outcome outcome = run([&, this] {
    const std::string expected = after_a_plain_call(prepare, [&] {
      outer();
      inner();
      outer();
    });
    prepare();
    call_on(node(), [&] {
      outer();
      call_on("local", inner);
      outer();
    });
    require_equal(describe_descriptors(), expected);
    close_files();
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACallAboutDescriptors, DoesNotTakeOneForAnotherWhoseSignalItHas) {
  const std::string one = file("one");
  Outcome outcome = run([&, this] {
    open_at(5, one, O_RDWR);
    open_at(6, one, O_RDWR);
    std::string error =
        error_of_call(node(), [] { require_equal(::fcntl(6, F_SETSIG, ::fcntl(5, F_GETSIG)), 0); });
    require(error.find("have f set it as it was (F_SETSIG)") != std::string::npos);
    close_files();
  });
  EXPECT_TRUE(went_well(outcome));
}

// Nobody keeps it open there.
TEST_P(ACallAboutDescriptors, UnlocksThereWhatItCloses) {
  const std::string one = file("one");
  Outcome outcome = run([&, this] {
    int locked = ::open(one.c_str(), O_RDWR | O_CLOEXEC);
    require(locked >= 0);
    call_on(node(), [&] {
      require_equal(::flock(locked, LOCK_EX), 0);
      ::close(locked);
      int again = ::open(one.c_str(), O_RDWR | O_CLOEXEC);
      require_equal(::flock(again, LOCK_EX | LOCK_NB), 0);
      ::close(again);
    });
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(To, ACallAboutDescriptors,
                         testing::ValuesIn(nodes_under_test({"local", "unix"})), name_of_node);

}  // namespace
}  // namespace fork_test
