// Signals that come while the program is away, and what it does about signals there.
#include <csignal>
#include <cstring>

#include <sys/time.h>
#include <unistd.h>

#include "calls.h"

namespace fork_test {
namespace {

volatile sig_atomic_t handled = 0;
volatile sig_atomic_t value = 0;

void handle(int signal, siginfo_t* info, void*) {
  handled = signal;
  value = info->si_value.sival_int;
}

void await_signal() {
  while (handled == 0) usleep(1000);
}

TEST_P(ACall, GetsItsSignalsThere) {
  Program program = start([this] {
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGUSR1, &action, nullptr);
    call_on(node(), [] {
      write_all(STDOUT_FILENO, "ready\n");
      await_signal();
    });
    require_equal(int{handled}, SIGUSR1);
    require_equal(int{value}, 77);
  });
  EXPECT_EQ(read_line(program.out), "ready");
  ASSERT_EQ(sigqueue(program.pid, SIGUSR1, sigval{.sival_int = 77}), 0);
  EXPECT_TRUE(went_well(finish(program)));
}

// Blocked ones, and others that a handler there has had: that is undone with all else.
TEST_P(ACall, GetsItsSignalsAgainWhenTheCallFails) {
  Program program = start([this] {
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGUSR1, &action, nullptr);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, nullptr);
    for (int i = -2; i < 0; ++i) sigqueue(getpid(), SIGRTMIN, sigval{.sival_int = i});
    try {
      telefork::run_on(node(), [] {
        write_all(STDOUT_FILENO, "ready\n");
        await_signal();
        abort();
      });
      _exit(1);
    } catch (const telefork::Error&) {
      // As it was to be.
    }
    require_equal(int{handled}, SIGUSR1);
    require_equal(int{value}, 77);
    siginfo_t info;
    for (int i = -2; i < 3; ++i) {
      sigemptyset(&blocked);
      sigaddset(&blocked, SIGRTMIN);
      require_equal(sigwaitinfo(&blocked, &info), SIGRTMIN);
      require_equal(info.si_value.sival_int, i);
    }
    sigaddset(&blocked, SIGTERM);
    require_equal(sigwaitinfo(&blocked, &info), SIGTERM);
    require_equal(info.si_pid, getppid());
    require_equal(sigpending(&blocked), 0);
    require_equal(sigismember(&blocked, SIGRTMIN), 0);
  });
  EXPECT_EQ(read_line(program.out), "ready");
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(sigqueue(program.pid, SIGRTMIN, sigval{.sival_int = i}), 0);
  }
  ASSERT_EQ(kill(program.pid, SIGTERM), 0);
  ASSERT_EQ(sigqueue(program.pid, SIGUSR1, sigval{.sival_int = 77}), 0);
  EXPECT_TRUE(went_well(finish(program)));
}

TEST_P(ACall, DiesOfASignalThatKillsItThere) {
  Program program = start([this] {
    call_on(node(), [] {
      write_all(STDOUT_FILENO, "ready\n");
      for (;;) pause();
    });
  });
  EXPECT_EQ(read_line(program.out), "ready");
  ASSERT_EQ(kill(program.pid, SIGTERM), 0);
  EXPECT_EQ(finish(program).end, killed(SIGTERM));
}

TEST_P(ACall, DiesOfSigkillAndTakesItsGuestWithIt) {
  Program program = start([this] {
    call_on(node(), [] {
      write_all(STDOUT_FILENO, "ready\n");
      for (;;) pause();
    });
  });
  EXPECT_EQ(read_line(program.out), "ready");
  ASSERT_EQ(kill(program.pid, SIGKILL), 0);
  EXPECT_EQ(finish(program).end, killed(SIGKILL));
  forget_killed_sessions_ = true;
}

TEST_P(ACall, BringsHandlersMasksAndPendingSignalsHome) {
  Outcome outcome = run([this] {
    call_on(node(), [] {
      struct sigaction action {};
      action.sa_sigaction = handle;
      action.sa_flags = SA_SIGINFO;
      sigaction(SIGUSR2, &action, nullptr);
      sigset_t set;
      sigemptyset(&set);
      sigaddset(&set, SIGUSR2);
      sigprocmask(SIG_BLOCK, &set, nullptr);
      sigqueue(getpid(), SIGUSR2, sigval{.sival_int = 5});
    });
    require_equal(int{handled}, 0);
    sigset_t set;
    sigprocmask(SIG_BLOCK, nullptr, &set);
    require_equal(sigismember(&set, SIGUSR2), 1);
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    require_equal(int{handled}, SIGUSR2);
    require_equal(int{value}, 5);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACall, TakesItsTimersThereAndBack) {
  Outcome outcome = run([this] {
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGALRM, &action, nullptr);
    itimerval soon{};
    soon.it_value.tv_usec = 50000;
    setitimer(ITIMER_REAL, &soon, nullptr);
    call_on(node(), [] { await_signal(); });
    require_equal(int{handled}, SIGALRM);
    handled = 0;
    call_on(node(), [&] { setitimer(ITIMER_REAL, &soon, nullptr); });
    await_signal();
  });
  EXPECT_TRUE(went_well(outcome));
}

}  // namespace
}  // namespace fork_test
