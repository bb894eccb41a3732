// Private agents: how they are started, and what they leave of the program and to it.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "library/testing_program.h"
#include "telefork/telefork.h"

namespace library_test {
namespace {

void close_high_sockets() {
  for (int fd = 64; fd < 1024; ++fd) {
    struct stat found {};
    if (fstat(fd, &found) == 0 && S_ISSOCK(found.st_mode)) close(fd);
  }
}

// An empty TELEFORK_SOCKET: no telepad.
class PrivateAgent : public ::testing::Test {
 protected:
  PrivateAgent() {
    setenv("TELEFORK_SOCKET", "", 1);
    setenv("TELEFORK_AGENT", TELEFORK_TESTING_AGENT, 1);
  }
  ~PrivateAgent() override {
    unsetenv("TELEFORK_SOCKET");
    unsetenv("TELEFORK_AGENT");
    // The agent would serve the tests that follow.
    close_high_sockets();
  }
};

TEST_F(PrivateAgent, HasNothingOfTheProgramAndIsNobodysChild) {
  signal(SIGUSR2, SIG_IGN);
  handled = 0;
  const auto old = signal(SIGCHLD, [](int) { handled = 1; });
  sigset_t usr1;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  sigprocmask(SIG_BLOCK, &usr1, nullptr);
  const int open_to_all = open("/dev/zero", O_RDONLY);
  EXPECT_EQ(telefork_fork("node7"), -1);
  EXPECT_STREQ(telefork_error(), "0=/dev/null 1=/dev/null 2=/dev/null 3=socket own session in /");
  expect_no_child();
  EXPECT_EQ(handled, 0) << "a SIGCHLD came";
  sigset_t mask;
  sigprocmask(SIG_UNBLOCK, &usr1, &mask);
  EXPECT_EQ(sigismember(&mask, SIGUSR1), 1);
  EXPECT_EQ(sigismember(&mask, SIGUSR2), 0);
  close(open_to_all);
  signal(SIGCHLD, old);
  signal(SIGUSR2, SIG_DFL);
}

// A process of its own, cloned with `flags`, is to be the one that its orphans go to.
void expect_no_child_of_a_reaper(unsigned long flags) {
  const auto pid = static_cast<pid_t>(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
  ASSERT_GE(pid, 0) << std::strerror(errno);
  if (pid == 0) {
    if (flags == 0) prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    handled = 0;
    signal(SIGCHLD, [](int) { handled = 1; });
    for (int call = 0; call < 2; ++call) {
      if (telefork_fork("node7") != -1) _exit(1);
      if (std::strstr(telefork_error(), "3=socket own session in /") == nullptr) _exit(2);
      if (waitpid(-1, nullptr, WNOHANG) != -1 || errno != ECHILD) _exit(3);
      // The agent ends with its socket, and what is left is seen with __WALL alone.
      close_high_sockets();
      siginfo_t info{};
      if (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT | __WALL) != 0) _exit(4);
      if (waitpid(-1, nullptr, WNOHANG) != -1 || errno != ECHILD) _exit(5);
    }
    if (handled != 0) _exit(6);
    // The next call has taken away what the first had left.
    if (waitpid(-1, nullptr, __WALL) <= 0 || waitpid(-1, nullptr, __WALL) != -1) _exit(7);
    _exit(0);
  }
  const int status = status_of(pid);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(PrivateAgent, IsNoChildOfASubreaper) { expect_no_child_of_a_reaper(0); }

TEST_F(PrivateAgent, IsNoChildOfPid1) {
  expect_no_child_of_a_reaper(geteuid() == 0 ? CLONE_NEWPID : CLONE_NEWPID | CLONE_NEWUSER);
}

TEST_F(PrivateAgent, NeedsLittleStackToStart) {
  int status = -1;
  // In a child, which has no socket to an agent yet. First the helper is chosen, then looked for.
  const pid_t pid = fork();
  if (pid == 0) {
    int right = 0;
    call_on_small_stack([&right] {
      const bool failed = telefork_fork("node7") == -1;
      if (failed && std::strstr(telefork_error(), "3=socket") != nullptr) ++right;
    });
    unsetenv("TELEFORK_AGENT");
    const pid_t other = fork();
    if (other == 0) {
      call_on_small_stack([&right] {
        if (telefork_fork("node7") == -1) ++right;
      });
      _exit(right);
    }
    waitpid(other, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
  }
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 2);
}

TEST_F(PrivateAgent, MissingHelperIsAnErrorThatNamesThePathTried) {
  setenv("TELEFORK_AGENT", "/nowhere/telefork-agent", 1);
  // In a child, which has no socket to an agent yet.
  const pid_t pid = fork();
  if (pid == 0) {
    const bool failed = telefork_fork("node7") == -1 && errno == ENOENT;
    _exit(failed &&
                  std::string(telefork_error()).find("/nowhere/telefork-agent") != std::string::npos
              ? 0
              : 1);
  }
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 0);
}

TEST_F(PrivateAgent, HelperIsLookedForBesideTheLibraryItself) {
  unsetenv("TELEFORK_AGENT");
  char folder[] = "/tmp/telefork-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string root = folder;
  for (const char* name : {"/lib", "/lib/x86_64-linux-gnu", "/libexec", "/libexec/telefork"}) {
    ASSERT_EQ(mkdir((root + name).c_str(), 0755), 0);
  }
  const std::string library = root + "/lib/x86_64-linux-gnu/libtelefork.so";
  std::ofstream(library, std::ios::binary) << read_text(TELEFORK_LIBRARY);
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(handle, nullptr) << dlerror();
  const auto fork_there = reinterpret_cast<pid_t (*)(const char*)>(dlsym(handle, "telefork_fork"));
  const auto error = reinterpret_cast<const char* (*)()>(dlsym(handle, "telefork_error"));
  EXPECT_EQ(fork_there("node7"), -1);
  EXPECT_NE(std::string(error()).find("no helper program: " + root + "/lib/libexec"),
            std::string::npos)
      << error();
  const std::string helper = root + "/libexec/telefork/telefork-agent";
  ASSERT_EQ(symlink(TELEFORK_TESTING_AGENT, helper.c_str()), 0);
  EXPECT_EQ(fork_there("node7"), -1);
  EXPECT_NE(std::string(error()).find("3=socket"), std::string::npos) << error();
  dlclose(handle);
  EXPECT_EQ(std::system(("rm -r " + root).c_str()), 0);
}

TEST_F(PrivateAgent, ProgramThatIsNoAgentIsAnErrorAndLeavesNothing) {
  setenv("TELEFORK_AGENT", "/bin/true", 1);
  const pid_t pid = fork();
  if (pid == 0) {
    const bool failed = telefork_fork("node7") == -1 && telefork_error_code() == TELEFORK_LOST;
    _exit(failed && waitpid(-1, nullptr, __WALL) == -1 && errno == ECHILD ? 0 : 1);
  }
  EXPECT_EQ(WEXITSTATUS(status_of(pid)), 0);
}

}  // namespace
}  // namespace library_test
