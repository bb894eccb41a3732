// Nothing left at either end: a reason, and the next fork works once there is room again.
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

namespace fs = std::filesystem;

void set_limit(int resource, rlim_t value) {
  const rlimit limit{value, value};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) _exit(126);
}

// Of version 1 or 2, whichever this machine has; empty `path` where none may be made.
class ControlGroup {
 public:
  explicit ControlGroup(const std::string& controller) {
    for (const std::string& root :
         {"/sys/fs/cgroup/" + controller, std::string("/sys/fs/cgroup")}) {
      const std::string path = root + "/telefork-test-" + std::to_string(getpid());
      if (fs::exists(root + "/cgroup.procs") && mkdir_at(path)) path_ = path;
      if (!path_.empty()) return;
    }
  }
  ~ControlGroup() {
    if (!path_.empty()) rmdir(path_.c_str());
  }
  ControlGroup(const ControlGroup&) = delete;
  ControlGroup& operator=(const ControlGroup&) = delete;

  // The first of these files that there is.
  bool set(std::initializer_list<const char*> names, const std::string& value) const {
    if (path_.empty()) return false;
    for (const char* name : names) {
      const std::string file = path_ + "/" + name;
      if (!fs::exists(file)) continue;
      const int fd = open(file.c_str(), O_WRONLY | O_CLOEXEC);
      const bool done = write(fd, value.data(), value.size()) == static_cast<ssize_t>(value.size());
      close(fd);
      return done;
    }
    return false;
  }
  void enter() const {
    if (!set({"cgroup.procs"}, "0")) _exit(126);
  }

 private:
  static bool mkdir_at(const std::string& path) {
    std::error_code failed;
    return fs::create_directory(path, failed);
  }
  std::string path_;
};

class AForkInNeed : public AFork {
 protected:
  std::string kind_of_node() const override { return "local"; }
  void SetUp() override {
    AFork::SetUp();
    socket_ = path("telepad.sock");
    there_ = "unix:" + socket_;
  }
  // A program that forks once while there is a lack, as `attempt` has it.
  Outcome run_attempt(const Body& attempt = {}) {
    return run([&] {
      if (attempt) attempt();
      telefork_options options = TELEFORK_OPTIONS_INIT;
      options.mode = TELEFORK_MODE_EAGER;  // who lacks the memory for it takes it
      const pid_t pid = telefork_fork_with(there_.c_str(), &options);
      if (pid == 0) {
        make_file(path("ran"));
        _exit(7);
      }
      write_all(1, pid < 0
                       ? "failed " + std::to_string(telefork_error_code()) + ": " + telefork_error()
                       : end_of(pid));
    });
  }
  // The call failed, or the pid ended with 125; with this in the reason; and the child never ran.
  void expect_refused(const Outcome& outcome, const std::string& part) {
    EXPECT_EQ(outcome.end, exited(0)) << outcome.err;
    const bool failed = outcome.out.starts_with("failed 8: ");
    if (!failed) {
      EXPECT_EQ(outcome.out, exited(125));
      EXPECT_TRUE(outcome.err.starts_with("telefork: ")) << outcome.err;
    }
    const std::string& reason = failed ? outcome.out : outcome.err;
    EXPECT_NE(reason.find(part), std::string::npos) << reason;
    EXPECT_FALSE(fs::exists(path("ran")));
  }
  void expect_that_it_works_now() {
    if (telepad_ < 0) start_telepad();
    const Outcome outcome = run_attempt();
    EXPECT_EQ(outcome.out, exited(7)) << outcome.err;
  }
  std::string there_;
};

INSTANTIATE_TEST_SUITE_P(From, AForkInNeed, testing::Values("home"));

void fill_memory(std::size_t megabytes) {
  const std::size_t size = megabytes << 20;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED);
  for (std::size_t at = 0; at < size; at += 4096) static_cast<char*>(memory)[at] = 1;
}

// Not when their time is over, but because somebody else has come.
TEST_P(AForkInNeed, IsNotKeptWaitingByConnectionsThatSayNothing) {
  constexpr rlim_t kDescriptors = 128;
  start_telepad([] { set_limit(RLIMIT_NOFILE, kDescriptors); });
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_.c_str(), sizeof address.sun_path - 1);
  std::vector<int> silent;
  for (rlim_t i = 0; i < 2 * kDescriptors; ++i) {
    silent.push_back(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(silent.back(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
  }
  const Outcome outcome = run_attempt();
  EXPECT_EQ(outcome.out, exited(7)) << outcome.err;
  EXPECT_NE(slurp(path("telepad.log")).find("others need its place"), std::string::npos);
  EXPECT_EQ(slurp(path("telepad.log")).find("Too many open files"), std::string::npos);
  for (int connection : silent) close(connection);
}

TEST_P(AForkInNeed, CannotReachATelepadThatIsStopped) {
  start_telepad();
  kill(telepad_, SIGSTOP);
  const Outcome outcome = run([&] {
    require_equal(telefork_fork(there_.c_str()), -1);
    require_equal(telefork_error_code(), static_cast<int>(TELEFORK_UNREACHABLE));
  });
  kill(telepad_, SIGCONT);
  EXPECT_TRUE(went_well(outcome));
  expect_that_it_works_now();
}

TEST_P(AForkInNeed, SaysThatTheDestinationHasTooLittleAddressSpace) {
  start_telepad([] { set_limit(RLIMIT_AS, rlim_t{300} << 20); });
  expect_refused(run_attempt([] { fill_memory(400); }), "emory");
  expect_that_it_works_now();  // the same telepad, a smaller program
}

// What travels lies in a memory file there, for which the limit counts too.
TEST_P(AForkInNeed, SaysThatTheDestinationMayMakeNoFileSoLarge) {
  start_telepad([] { set_limit(RLIMIT_FSIZE, 10'000); });
  expect_refused(run_attempt([&] {
                   make_file(path("content"), std::string(100'000, 'x'));
                   const int fd = open(path("content").c_str(), O_RDONLY);
                   require(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED);
                   require(unlink(path("content").c_str()) == 0 && close(fd) == 0);
                 }),
                 "writing a memory file (limit fsize is 10000): File too large");
  expect_that_it_works_now();
}

TEST_P(AForkInNeed, WorksWhereNoFileMayGrow) {
  const Outcome outcome = run([] {
    set_limit(RLIMIT_FSIZE, 0);
    const pid_t pid = telefork_fork("local");
    if (pid == 0) {
      struct sigaction action {};
      sigaction(SIGXFSZ, nullptr, &action);
      _exit(action.sa_handler == SIG_DFL ? 7 : 8);
    }
    write_all(1, pid < 0 ? telefork_error() : end_of(pid));
  });
  EXPECT_EQ(outcome.out, exited(7)) << outcome.err;
}

TEST_P(AForkInNeed, WorksOnASmallStack) {
  const Outcome outcome = run([] {
    set_limit(RLIMIT_STACK, 64 * 1024);
    const pid_t pid = telefork_fork("local");
    if (pid == 0) _exit(7);
    write_all(1, pid < 0 ? telefork_error() : end_of(pid));
  });
  EXPECT_EQ(outcome.out, exited(7)) << outcome.err;
}

TEST_P(AForkInNeed, SurvivesTheKernelsKillForWantOfMemory) {
  const ControlGroup group("memory");
  if (!group.set({"memory.limit_in_bytes", "memory.max"}, "100000000")) {
    GTEST_SKIP() << "needs: a memory cgroup of one's own";
  }
  group.set({"memory.memsw.limit_in_bytes"}, "100000000");
  start_telepad([&] { group.enter(); });
  expect_refused(run_attempt([] { fill_memory(300); }), "for want of memory");
  stop_telepad(SIGKILL);  // the kernel may have chosen it
  EXPECT_TRUE(all_processes_end());
  expect_that_it_works_now();
  stop_telepad(SIGTERM);
}

TEST_P(AForkInNeed, SaysThatTheDestinationHasTooFewPids) {
  // A telepad; then a telepad and two keepers, of which one waits for the next fork.
  for (const char* count : {"1", "2", "3"}) {
    const ControlGroup group("pids");
    if (!group.set({"pids.max"}, count)) GTEST_SKIP() << "needs: a pids cgroup of one's own";
    start_telepad([&] { group.enter(); });
    const Outcome outcome = run_attempt();
    if (outcome.out != exited(7)) expect_refused(outcome, "esource temporarily unavailable");
    if (*count == '1') {
      EXPECT_NE(outcome.out, exited(7));
    }
    group.set({"pids.max"}, "max");
    fs::remove(path("ran"));
    expect_that_it_works_now();
    fs::remove(path("ran"));
    stop_telepad(SIGTERM);
    EXPECT_TRUE(all_processes_end());
  }
}

TEST_P(AForkInNeed, SaysThatTheDestinationHasTooFewDescriptors) {
  for (rlim_t count : {6, 8, 10, 12, 16}) {
    SCOPED_TRACE(std::to_string(count) + " descriptors");
    start_telepad([=] { set_limit(RLIMIT_NOFILE, count); });
    const Outcome outcome = run_attempt();
    if (outcome.out != exited(7)) {
      EXPECT_EQ(outcome.end, exited(0)) << outcome.err;
      EXPECT_TRUE(outcome.out.starts_with("failed ") || outcome.out == exited(125)) << outcome.out;
      EXPECT_FALSE(fs::exists(path("ran")));
      if (outcome.out == exited(125)) {
        EXPECT_TRUE(outcome.err.starts_with("telefork: "));
      }
    }
    fs::remove(path("ran"));
    stop_telepad(SIGTERM);
    EXPECT_TRUE(all_processes_end());
  }
  expect_that_it_works_now();
}

TEST_P(AForkInNeed, SaysThatTheDestinationCannotHaveSoManyOpenFiles) {
  make_file(path("file"), "x");
  start_telepad([] { set_limit(RLIMIT_NOFILE, 100); });
  const Outcome outcome = run_attempt([this] {
    const int file = open(path("file").c_str(), O_RDONLY);
    require(dup2(file, 500) == 500);
    close(file);
  });
  EXPECT_EQ(outcome.out, exited(125));
  EXPECT_TRUE(outcome.err.starts_with("telefork: ")) << outcome.err;
  EXPECT_FALSE(fs::exists(path("ran")));
  expect_that_it_works_now();
}

TEST_P(AForkInNeed, SaysThatTheCallerHasTooFewDescriptors) {
  start_telepad();
  const Outcome outcome = run([this] {
    const rlimit none{3, 100};
    require(setrlimit(RLIMIT_NOFILE, &none) == 0);
    require_equal(telefork_fork(there_.c_str()), -1);
    require_equal(telefork_error_code(), static_cast<int>(TELEFORK_RESOURCES));
    require_equal(errno, EMFILE);
    const rlimit some{100, 100};
    require(setrlimit(RLIMIT_NOFILE, &some) == 0);
    require_equal(end_of(fork_child(there_, [] { return 7; })), exited(7));
    // One is enough for the agent's socket, not for the fork's own.
    const rlimit few{static_cast<rlim_t>(open_descriptors().back()) + 1, 100};
    for (int fd = open("/dev/null", O_RDONLY); fd >= 0; fd = open("/dev/null", O_RDONLY)) {
    }
    require(setrlimit(RLIMIT_NOFILE, &few) == 0);
    require_equal(telefork_fork(there_.c_str()), -1);
    require_equal(telefork_error_code(), static_cast<int>(TELEFORK_RESOURCES));
    closefrom(3);
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
