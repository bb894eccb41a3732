// How a child ends, stops and continues, as its parent sees it.
#include <csignal>
#include <cstdint>
#include <cstdlib>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

INSTANTIATE_TEST_SUITE_P(On, AFork, testing::ValuesIn(nodes_under_test({"local", "unix"})),
                         name_of_node);

TEST_P(AFork, ReturnsTwice) {
  Outcome outcome = run([this] {
    const pid_t home = getpid();
    const pid_t pid = telefork::fork(node());
    if (pid == 0) _exit(getpid() == home ? 1 : 7);
    require(pid > 0);
    require(pid != home);
    require_equal(end_of(pid), exited(7));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, GivesWaitTheExitCode) {
  constexpr int kAtOnce = 8;
  Outcome outcome = run([this] {
    // All of them in `make soak`.
    const int step = std::getenv("TELEFORK_TESTS_ALL") != nullptr ? kAtOnce : 124;
    for (int first = 0; first < 256; first += step) {
      pid_t pids[kAtOnce];
      for (int i = 0; i < kAtOnce; ++i) pids[i] = fork_child(node(), [&] { return first + i; });
      for (int i = 0; i < kAtOnce; ++i) require_equal(end_of(pids[i]), exited(first + i));
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, GivesWaitTheSignalThatKilledTheChild) {
  Outcome outcome = run([this] {
    for (int signal :
         {SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1,
          SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGXCPU, SIGSYS, SIGRTMIN, SIGRTMAX}) {
      const pid_t pid = fork_child(node(), [signal] {
        raise(signal);
        return 1;
      });
      require_equal(end_of(pid), killed(signal));
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, IsKilledByItsOwnFault) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      volatile std::uintptr_t nowhere = 8;
      *reinterpret_cast<volatile int*>(nowhere) = 1;
      return 1;
    });
    require_equal(end_of(pid), killed(SIGSEGV));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, ShowsTheParentThatTheChildStoppedAndContinued) {
  Outcome outcome = run([this] {
    for (int signal : {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU}) {
      const pid_t pid = fork_child(node(), [signal] {
        sigset_t go;
        sigemptyset(&go);
        sigaddset(&go, SIGUSR1);
        sigprocmask(SIG_BLOCK, &go, nullptr);
        raise(signal);
        int got = 0;
        sigwait(&go, &got);  // one that has ended is not seen to continue
        return 5;
      });
      require_equal(status_of(pid, WUNTRACED), "stopped by " + std::to_string(signal));
      kill(pid, SIGCONT);
      require_equal(status_of(pid, WCONTINUED), "continued");
      kill(pid, SIGUSR1);
      require_equal(end_of(pid), exited(5));
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, EndsAStoppedChildBySigkill) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      raise(SIGSTOP);
      return 5;
    });
    require_equal(status_of(pid, WUNTRACED), "stopped by 19");
    kill(pid, SIGKILL);
    require_equal(end_of(pid), killed(SIGKILL));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, SendsTheParentSigchld) {
  Outcome outcome = run([this] {
    static volatile sig_atomic_t seen;
    struct sigaction action {};
    action.sa_handler = [](int) { seen = 1; };
    sigaction(SIGCHLD, &action, nullptr);
    sigset_t chld, old;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &old);
    const pid_t pid = fork_child(node(), [] { return 3; });
    require(!seen);
    while (!seen) sigsuspend(&old);
    require_equal(status_of(pid, WNOHANG), exited(3));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, LeavesNoChildButThePid) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] { return 0; });
    require_equal(waitpid(-1, nullptr, 0), pid);
    require_equal(waitpid(-1, nullptr, 0), -1);
    require_equal(errno, ECHILD);
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
