// Calls that fail: the code, the reason, and that nothing is left.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iterator>
#include <sstream>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lazy_pages.h"
#include "scene.h"

namespace fork_test {
namespace {

struct Expected {
  telefork_code code;
  int error;         // -1: any
  std::string part;  // of the message
};

void require_failure(const std::string& node, const telefork_options* options,
                     const Expected& expected, const Where& where = Where::current()) {
  errno = 0;
  const pid_t pid = telefork_fork_with(node.c_str(), options);
  const int error = errno;
  if (pid == 0) _exit(88);
  if (pid > 0) fail_here("the fork did not fail", where);
  const std::string text = telefork_error();
  if (telefork_error_code() != expected.code) {
    fail_here("code " + std::to_string(telefork_error_code()) + ": " + text, where);
  }
  if (error == 0 || (expected.error >= 0 && error != expected.error)) {
    fail_here(std::string("errno is ") + std::strerror(error) + ": " + text, where);
  }
  if (text.find(expected.part) == std::string::npos) {
    fail_here("no '" + expected.part + "' in: " + text, where);
  }
  require_equal(waitpid(-1, nullptr, WNOHANG), -1, where);
}

void require_failure(const std::string& node, const Expected& expected,
                     const Where& where = Where::current()) {
  require_failure(node, nullptr, expected, where);
}

int listen_at(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(listen(fd, 8), 0);
  return fd;
}

TEST_P(AFork, FailsForANodeThatCannotBe) {
  Outcome outcome = run([this] {
    require_failure("", {TELEFORK_USAGE, EINVAL, "node"});
    require_failure(std::string(300, 'n'), {TELEFORK_USAGE, EINVAL, "255"});
    require_failure("unix:", {TELEFORK_USAGE, -1, "unix:"});
    require_failure("no such node", {TELEFORK_USAGE, -1, "no such node"});
    require_equal(end_of(fork_child(node(), [] { return 4; })), exited(4));
  });
  EXPECT_TRUE(went_well(outcome));
}

// Of a C string there would be nothing behind it.
TEST_P(AFork, FailsForANodeWithANulInItsName) {
  Outcome outcome = run([this] {
    const std::string cut = node() + std::string(1, '\0') + "behind";
    for (bool calls : {false, true}) {
      try {
        if (calls) telefork::run_on(cut, [] { _exit(1); });
        if (!calls && telefork::fork(cut) == 0) _exit(1);
        fail_here("it worked", Where::current());
      } catch (const telefork::Error& error) {
        require_equal(int{error.code()}, int{TELEFORK_USAGE});
        require_equal(error.error(), EINVAL);
        require(std::strstr(error.what(), "NUL") != nullptr);
      }
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, FailsForANodeThatDoesNotAnswer) {
  close(listen_at(path("closed.sock")));
  Outcome outcome = run([this] {
    require_failure("unix:" + path("missing.sock"), {TELEFORK_UNREACHABLE, ENOENT, "missing.sock"});
    require_failure("unix:" + path("closed.sock"),
                    {TELEFORK_UNREACHABLE, ECONNREFUSED, "closed.sock"});
    require_equal(end_of(fork_child(node(), [] { return 4; })), exited(4));
  });
  EXPECT_TRUE(went_well(outcome));
}

// A server that is no telepad: one that hangs up, and one that talks.
TEST_P(AFork, FailsWhereNoTelepadAnswers) {
  for (const std::string& answer :
       {std::string(), std::string("220 mail ESMTP ready, hello there\r\n"),
        std::string(300, '\xff')}) {
    const int listener = listen_at(path("other.sock"));
    const pid_t server = ::fork();
    if (server == 0) {
      for (;;) {
        const int connection = accept(listener, nullptr, nullptr);
        if (!answer.empty()) write_all(connection, answer);
        char byte = 0;
        [[maybe_unused]] const ssize_t n = read(connection, &byte, 1);
        close(connection);
      }
    }
    close(listener);
    Outcome outcome = run([this] {
      errno = 0;
      require_equal(telefork_fork(("unix:" + path("other.sock")).c_str()), -1);
      require(errno != 0);
      require_equal(telefork_error_code(), TELEFORK_UNREACHABLE);
      require(std::strstr(telefork_error(), "other.sock") != nullptr);
      require_equal(waitpid(-1, nullptr, WNOHANG), -1);
      require_equal(end_of(fork_child(node(), [] { return 4; })), exited(4));
    });
    EXPECT_TRUE(went_well(outcome));
    kill(server, SIGKILL);
    waitpid(server, nullptr, 0);
    unlink(path("other.sock").c_str());
  }
}

TEST_P(AFork, FailsWithoutItsHelperProgram) {
  Outcome outcome = run([this] {
    const std::string socket = getenv("TELEFORK_SOCKET");
    setenv("TELEFORK_SOCKET", "", 1);
    setenv("TELEFORK_AGENT", "/nonexistent/telefork-agent", 1);
    require_failure(node(), {TELEFORK_FAILED, ENOENT, "/nonexistent/telefork-agent"});
    setenv("TELEFORK_AGENT", "/etc/passwd", 1);
    require_failure(node(), {TELEFORK_FAILED, EACCES, "/etc/passwd"});
    setenv("TELEFORK_AGENT", "/bin/false", 1);
    require_failure(node(), {TELEFORK_LOST, -1, "agent"});
    unsetenv("TELEFORK_AGENT");
    setenv("TELEFORK_SOCKET", "/nonexistent/telepad.sock", 1);
    require_failure(node(), {TELEFORK_UNREACHABLE, ENOENT, "/nonexistent/telepad.sock"});
    setenv("TELEFORK_SOCKET", socket.c_str(), 1);
    require_equal(end_of(fork_child(node(), [] { return 4; })), exited(4));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, FailsForAModeThatCannotBeHad) {
  Outcome outcome = run([this] {
    telefork_options options = TELEFORK_OPTIONS_INIT;
    options.mode = TELEFORK_MODE_LIVE;
    require_failure(node(), &options, {TELEFORK_USAGE, -1, "live"});
    options.mode = 77;
    require_failure(node(), &options, {TELEFORK_USAGE, EINVAL, "option"});
    telefork::Options eager;
    eager.mode = telefork::Mode::eager;
    require_equal(end_of(fork_child(
                      node(), [] { return 4; }, eager)),
                  exited(4));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, LetsMemoryFollowOrSaysThatItCannot) {
  Outcome outcome = run([this] {
    telefork_options options = TELEFORK_OPTIONS_INIT;
    options.mode = TELEFORK_MODE_LAZY;
    if (memory_can_follow(node())) {
      require_equal(end_of(fork_child(
                        node(), [] { return 4; }, lazy())),
                    exited(4));
    } else {
      require_failure(node(), &options, {TELEFORK_REFUSED, -1, "use mode eager"});
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, LeavesNoDescriptorBehindWhenItFails) {
  Outcome outcome = run([this] {
    require_equal(end_of(fork_child(node(), [] { return 4; })), exited(4));
    const std::vector<int> before = open_descriptors();
    for (int i = 0; i < 5; ++i) {
      require_failure("unix:" + path("missing.sock"), {TELEFORK_UNREACHABLE, ENOENT, ""});
    }
    require(open_descriptors() == before);
  });
  EXPECT_TRUE(went_well(outcome));
}

// What is not up to the telepad alone: a keeper that waits for the next fork lasts without it.
void fork_until_unreachable(const std::string& node) {
  for (int i = 0;; ++i) {
    const pid_t pid = telefork_fork(node.c_str());
    if (pid == 0) _exit(3);
    if (pid < 0) break;
    require(i < 3);
    require_equal(end_of(pid), exited(3));
  }
  require_equal(telefork_error_code(), static_cast<int>(TELEFORK_UNREACHABLE));
}

TEST_P(AFork, FindsATelepadThatWentAndCameAgain) {
  socket_ = path("telepad.sock");
  if (telepad_ < 0) start_telepad();
  setenv("TELEFORK_SOCKET", "", 1);  // a private agent, which stays
  const std::string there = "unix:" + socket_;
  Program program = start([this, there] {
    require_equal(end_of(fork_child(there, [] { return 1; })), exited(1));
    make_file(path("once"));
    await_file(path("gone"));
    fork_until_unreachable(there);
    make_file(path("missed"));
    await_file(path("back"));
    require_equal(end_of(fork_child(there, [] { return 2; })), exited(2));
  });
  EXPECT_TRUE(file_comes(path("once")));
  stop_telepad(SIGTERM);
  make_file(path("gone"));
  EXPECT_TRUE(file_comes(path("missed")));
  start_telepad();
  make_file(path("back"));
  EXPECT_TRUE(went_well(finish(program)));
}

// The agent whose parent is none: its sessions are its children.
pid_t find_agent() {
  auto name_of = [](pid_t pid) { return slurp("/proc/" + std::to_string(pid) + "/comm"); };
  for (pid_t pid : list_descendants(getpid())) {
    if (name_of(pid) != "telefork-agent\n") continue;
    const std::string stat = slurp("/proc/" + std::to_string(pid) + "/stat");
    const pid_t parent = std::atoi(stat.c_str() + stat.rfind(')') + 3);
    if (name_of(parent) != "telefork-agent\n") return pid;
  }
  return 0;
}

TEST_P(AFork, CannotReachAnAgentThatIsStopped) {
  const Program program = start([this] {
    setenv("TELEFORK_SOCKET", "", 1);  // an agent of its own, which descends from this test
    require_equal(end_of(fork_child(node(), [] { return 3; })), exited(3));
    make_file(path("forked"));
    await_file(path("stopped"));
    require_failure(node(), {TELEFORK_UNREACHABLE, ETIMEDOUT, "has not read the call for 10 s"});
    make_file(path("failed"));
    await_file(path("continued"));
    require_equal(end_of(fork_child(node(), [] { return 4; })), exited(4));
  });
  ASSERT_TRUE(file_comes(path("forked")));
  const pid_t agent = find_agent();
  ASSERT_GT(agent, 0);
  kill(agent, SIGSTOP);
  make_file(path("stopped"));
  EXPECT_TRUE(file_comes(path("failed")));
  kill(agent, SIGCONT);
  make_file(path("continued"));
  EXPECT_TRUE(went_well(finish(program)));
}

TEST_P(AFork, FindsAnotherAgentWhenTheOneOfTwoNodesHasDied) {
  const Program program = start([this] {
    setenv("TELEFORK_SOCKET", "", 1);  // an agent of its own, which descends from this test
    std::vector<pid_t> children;
    auto fork_one = [&](const std::string& to) {
      children.push_back(fork_child(to, [this] {
        await_file(path("end"));
        return 3;
      }));
    };
    for (const std::string& to : {node(), std::string("local"), node(), std::string("local")}) {
      fork_one(to);
    }
    make_file(path("forked"));
    await_file(path("killed"));
    fork_one(node());
    make_file(path("end"));
    for (pid_t child : children) require_equal(end_of(child), exited(3));
  });
  ASSERT_TRUE(file_comes(path("forked")));
  const pid_t agent = find_agent();
  ASSERT_GT(agent, 0);
  const int handle = static_cast<int>(syscall(SYS_pidfd_open, agent, 0));
  ASSERT_GE(handle, 0);
  kill(agent, SIGKILL);
  pollfd ended{handle, POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 60'000), 1);
  close(handle);
  make_file(path("killed"));
  EXPECT_TRUE(went_well(finish(program)));
}

// Those that have ended and were not reaped are among them.
std::size_t count_children(pid_t pid) {
  const std::string process = std::to_string(pid);
  std::istringstream children(slurp("/proc/" + process + "/task/" + process + "/children"));
  return static_cast<std::size_t>(std::distance(std::istream_iterator<pid_t>(children), {}));
}

// There is no event for somebody else's child that is reaped.
bool comes_to_one_child(pid_t pid) {
  constexpr timespec kPause{0, 2'000'000};
  for (int tries = 0; tries < 30'000; ++tries) {
    if (count_children(pid) == 1) return true;
    nanosleep(&kPause, nullptr);
  }
  return false;
}

TEST_P(AFork, LeavesNoEndedSessionToItsAgentUntilTheNextCall) {
  const Program program = start([this] {
    setenv("TELEFORK_SOCKET", "", 1);  // an agent of its own, which descends from this test
    for (int code : {1, 2}) {
      require_equal(end_of(fork_child(node(), [=] { return code; })), exited(code));
    }
    make_file(path("ended"));
    await_file(path("seen"));
  });
  ASSERT_TRUE(file_comes(path("ended")));
  const pid_t agent = find_agent();
  ASSERT_GT(agent, 0);
  // The one that is kept ready for the next call.
  EXPECT_TRUE(comes_to_one_child(agent)) << describe_descendants();
  make_file(path("seen"));
  EXPECT_TRUE(went_well(finish(program)));
}

}  // namespace
}  // namespace fork_test
