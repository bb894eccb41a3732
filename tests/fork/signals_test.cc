// kill() of the pid at home reaches the child, wherever it is.
#include <csignal>
#include <cstdlib>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

sigset_t every_signal() {
  sigset_t all;
  sigfillset(&all);
  return all;
}

void block_every_signal() {
  const sigset_t all = every_signal();
  sigprocmask(SIG_SETMASK, &all, nullptr);
}

siginfo_t take_signal() {
  const sigset_t all = every_signal();
  siginfo_t info{};
  require(sigwaitinfo(&all, &info) > 0);
  return info;
}

void say(const std::string& line) { write_all(1, line + "\n"); }

int wait_for_ever() {
  say(std::to_string(getpid()));
  for (;;) pause();
}

// Its parent there is telefork's keeper.
TEST_P(AFork, IsNoneTheWorseForAChildThatSignalsItsParent) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] {
      const pid_t parent = getppid();
      for (int signal : {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF,
                         SIGIO, SIGPWR, SIGTSTP, SIGTTIN, SIGTTOU, SIGRTMIN, SIGRTMAX}) {
        // 0: it has none, in a pid namespace of its own.
        if (parent != 0) require(kill(parent, signal) == 0);
      }
      require_equal(getppid(), parent);
      return 7;
    });
    require_equal(end_of(pid), exited(7));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, SendsEverySignalOnToTheChild) {
  Outcome outcome = run([this] {
    listen_to_children();
    block_every_signal();
    std::vector<int> signals;
    for (int signal = 1; signal <= SIGRTMAX; ++signal) {
      const bool of_libc = signal > 31 && signal < SIGRTMIN;
      if (signal != SIGKILL && signal != SIGSTOP && !of_libc) signals.push_back(signal);
    }
    const pid_t pid = fork_child(node(), [&] {
      for ([[maybe_unused]] int signal : signals) say(std::to_string(take_signal().si_signo));
      return 0;
    });
    for (int signal : signals) {
      require(kill(pid, signal) == 0);
      require_equal(read_line(), std::to_string(signal));
    }
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsTheValueAndTheOrderOfQueuedSignals) {
  Outcome outcome = run([this] {
    block_every_signal();
    const pid_t home = getpid();
    const pid_t pid = fork_child(node(), [home] {
      for (int i = 0; i < 20; ++i) {
        const siginfo_t info = take_signal();
        require_equal(info.si_signo, SIGRTMIN + 1);
        require_equal(info.si_code, SI_QUEUE);
        require_equal(info.si_value.sival_int, 1000 + i);
        require_equal(info.si_pid, home);
      }
      return 0;
    });
    for (int i = 0; i < 20; ++i) {
      require(sigqueue(pid, SIGRTMIN + 1, sigval{.sival_int = 1000 + i}) == 0);
    }
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, SendsOnWhatCameBeforeTheChildRan) {
  Outcome outcome = run([this] {
    block_every_signal();
    const pid_t pid = fork_child(node(), [] { return take_signal().si_signo; });
    kill(pid, SIGUSR2);  // at once: nothing has been sent yet
    require_equal(end_of(pid), exited(SIGUSR2));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, RunsTheChildsHandlers) {
  Outcome outcome = run([this] {
    static volatile sig_atomic_t seen;
    struct sigaction action {};
    action.sa_handler = [](int signal) { seen = signal; };
    sigaction(SIGTERM, &action, nullptr);
    sigset_t term, old;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, &old);
    const pid_t pid = fork_child(node(), [&] {
      while (seen == 0) sigsuspend(&old);
      return static_cast<int>(seen);
    });
    kill(pid, SIGTERM);
    require_equal(end_of(pid), exited(SIGTERM));
    require_equal(static_cast<int>(seen), 0);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, DiesOfTheSignalsThatTheChildDoesNotCatch) {
  Outcome outcome = run([this] {
    listen_to_children();
    for (int signal : {SIGTERM, SIGHUP, SIGQUIT, SIGRTMIN}) {
      const pid_t pid = fork_child(node(), wait_for_ever);
      read_line();
      kill(pid, signal);
      require_equal(end_of(pid), killed(signal));
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KillsTheChildWithItsPid) {
  Outcome outcome = run([this] {
    listen_to_children();
    const pid_t pid = fork_child(node(), wait_for_ever);
    const pid_t guest = std::stoi(read_line());
    kill(pid, SIGKILL);
    require_equal(end_of(pid), killed(SIGKILL));
    await_gone(guest);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, StopsAndContinuesTheChildWithItsPid) {
  Outcome outcome = run([this] {
    listen_to_children();
    for (int signal : {SIGSTOP, SIGTSTP}) {
      const pid_t pid = fork_child(node(), wait_for_ever);
      const pid_t guest = std::stoi(read_line());
      kill(pid, signal);
      require_equal(status_of(pid, WUNTRACED), "stopped by " + std::to_string(signal));
      await_state(guest, 'T');
      kill(pid, SIGCONT);
      require_equal(status_of(pid, WCONTINUED), "continued");
      await_state(guest, 'S');
      kill(pid, SIGTERM);
      require_equal(end_of(pid), killed(SIGTERM));
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, StopsAtOnceAndContinuesLater) {
  Outcome outcome = run([this] {
    const pid_t pid = fork_child(node(), [] { return 5; });
    kill(pid, SIGSTOP);  // it is still on its way
    require_equal(status_of(pid, WUNTRACED), "stopped by 19");
    kill(pid, SIGCONT);
    require_equal(end_of(pid), exited(5));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, LetsTheChildCatchSigtstp) {
  Outcome outcome = run([this] {
    block_every_signal();
    const pid_t pid = fork_child(node(), [] { return take_signal().si_signo; });
    kill(pid, SIGTSTP);
    require_equal(status_of(pid, WUNTRACED), exited(SIGTSTP));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsASignalForAStoppedChildUntilItContinues) {
  Outcome outcome = run([this] {
    block_every_signal();
    const pid_t pid = fork_child(node(), [] {
      raise(SIGSTOP);
      const int first = take_signal().si_signo;
      return first == SIGCONT ? take_signal().si_signo : first;
    });
    require_equal(status_of(pid, WUNTRACED), "stopped by 19");
    kill(pid, SIGUSR1);
    kill(pid, SIGCONT);
    require_equal(end_of(pid), exited(SIGUSR1));
  });
  EXPECT_TRUE(went_well(outcome));
}

// ^C: the kernel sends SIGINT to the terminal's foreground group, where the deputy is.
TEST_P(AFork, SendsTheTerminalsSignalsToTheChildAndItsOwnChildren) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_TRUE(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(slave, 0);
  ProgramSettings settings;
  settings.own_session = true;
  settings.standard_input = slave;
  Program program = start(
      [this] {
        require(ioctl(0, TIOCSCTTY, 0) == 0);
        block_every_signal();
        const pid_t pid = fork_child(node(), [] {
          const pid_t own = ::fork();
          if (own == 0) {
            say("grandchild ready");
            say("grandchild " + std::to_string(take_signal().si_signo));
            _exit(0);
          }
          say("child ready");
          const siginfo_t first = take_signal();
          // Its own child may be faster.
          const int signal = first.si_signo == SIGCHLD ? take_signal().si_signo : first.si_signo;
          require_equal(end_of(own), exited(0));
          say("child " + std::to_string(signal));
          return 0;
        });
        require_equal(take_signal().si_signo, SIGINT);
        require_equal(end_of(pid), exited(0));
      },
      settings);
  close(slave);
  read_line(program.out);
  read_line(program.out);
  write_all(master, "\x03");
  Outcome outcome = finish(program);
  close(master);
  EXPECT_TRUE(went_well(outcome));
  EXPECT_EQ(outcome.out, "grandchild 2\nchild 2\n");
}

}  // namespace
}  // namespace fork_test
