#include "deputy/supervisor.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/deputy.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace telefork::deputy {
namespace {

using tracee::StopWatch;
using Kind = Event::Kind;

constexpr int kPatienceMs = 20000;

bool is_readable(int fd, int patience_ms) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&ready, 1, patience_ms) == 1;
}

struct Setting {
  bool orphaned_group = false;  // else a group of its own, whose stops the kernel lets be
  bool die_with_parent = false;
  bool ignores_all = false;
  int terminal = -1;              // a pty's slave: the deputy is its foreground group
  std::vector<int> pending = {};  // signals sent to it before the exec
  std::vector<std::string> arguments = {"program", "an argument"};
};

// The program's parent, in a process of its own that reports each wait status of its child. The
// child becomes the deputy by a plain exec, all signals blocked, as the snapshot is.
class Family {
 public:
  explicit Family(const Setting& setting) {
    auto [read_end, write_end] = make_pipe();
    auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
    reports_ = std::move(read_end);
    socket = std::move(ours);
    parent_ = fork();
    if (parent_ == 0) run_parent(setting, write_end.get(), theirs.get());
    child_ = read_report();
  }
  ~Family() {
    if (child_ > 0) kill(child_, SIGKILL);
    kill_parent();
  }

  pid_t child() const { return child_; }
  int reports() const { return reports_.get(); }
  bool has_report() const { return is_readable(reports_.get(), 0); }
  int read_report() const {
    int value = -1;
    EXPECT_TRUE(is_readable(reports_.get(), kPatienceMs)) << "the parent saw nothing";
    EXPECT_EQ(read(reports_.get(), &value, sizeof value), ssize_t{sizeof value});
    return value;
  }
  void kill_parent() {
    if (parent_ <= 0) return;
    kill(parent_, SIGKILL);
    waitpid(parent_, nullptr, 0);
    parent_ = -1;
  }

  UniqueFd socket;

 private:
  [[noreturn]] void run_parent(const Setting& setting, int reports, int theirs) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    socket.reset();
    if (setting.orphaned_group || setting.terminal >= 0) setsid();
    if (setting.terminal >= 0) ioctl(setting.terminal, TIOCSCTTY, 0);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child == 0) exec_deputy(setting, theirs, parent);
    for (int fd = 3; fd < 1024; ++fd) {
      if (fd != reports) close(fd);
    }
    int value = child;
    while (write(reports, &value, sizeof value) > 0) {
      if (waitpid(child, &value, WUNTRACED | WCONTINUED) < 0) break;
    }
    _exit(0);
  }

  [[noreturn]] static void exec_deputy(const Setting& setting, int socket, pid_t parent) {
    if (!setting.orphaned_group) setpgid(0, 0);
    if (setting.terminal >= 0) tcsetpgrp(setting.terminal, getpid());
    const std::uint64_t every_signal = ~std::uint64_t{0};
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &every_signal, nullptr, sizeof every_signal);
    if (setting.ignores_all) {
      const std::uint64_t ignored[4] = {reinterpret_cast<std::uint64_t>(SIG_IGN)};
      for (int signal = 1; signal <= 64; ++signal) {
        syscall(SYS_rt_sigaction, signal, ignored, nullptr, sizeof every_signal);
      }
    }
    for (const int signal : setting.pending) kill(getpid(), signal);
    fcntl(socket, F_SETFD, 0);
    std::vector<std::string> environment = {
        std::string(TELEFORK_DEPUTY_FD "=") + std::to_string(socket),
        TELEFORK_DEPUTY_COMM "=travelled"};
    if (setting.die_with_parent) {
      environment.push_back(TELEFORK_DEPUTY_PARENT "=" + std::to_string(parent));
    }
    std::vector<std::string> arguments = setting.arguments;
    std::vector<char*> argv, envp;
    for (std::string& text : arguments) argv.push_back(text.data());
    for (std::string& text : environment) envp.push_back(text.data());
    argv.push_back(nullptr);
    envp.push_back(nullptr);
    execve(TELEFORK_DEPUTY_PROGRAM, argv.data(), envp.data());
    _exit(99);
  }

  UniqueFd reports_;
  pid_t parent_ = -1;
  pid_t child_ = -1;
};

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() {
    sigset_t sigchld;
    sigemptyset(&sigchld);
    sigaddset(&sigchld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &sigchld, &old_);
    sigchld_ = UniqueFd(signalfd(-1, &sigchld, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~SupervisorTest() override { sigprocmask(SIG_SETMASK, &old_, nullptr); }

  void start(const Setting& setting = {}, UniqueFd standard_error = {}) {
    family_ = std::make_unique<Family>(setting);
    supervisor_ = std::make_unique<Supervisor>(
        StopWatch::seize(family_->child()), std::move(family_->socket), std::move(standard_error));
    ASSERT_EQ(next().kind, Kind::kReady);
  }

  // One turn of the session process's loop; it also ends when the parent has seen something.
  void turn(int patience_ms) {
    pollfd fds[] = {{.fd = sigchld_.get(), .events = POLLIN, .revents = 0},
                    {.fd = supervisor_->socket_fd(), .events = POLLIN, .revents = 0},
                    {.fd = family_->reports(), .events = POLLIN, .revents = 0}};
    ASSERT_GT(poll(fds, 3, patience_ms), 0) << "nothing happened";
    signalfd_siginfo info;
    if (fds[0].revents != 0 && read(sigchld_.get(), &info, sizeof info) > 0) {
      supervisor_->on_sigchld();
    }
    if (fds[1].revents != 0) supervisor_->on_readable();
  }

  Event next() {
    for (;;) {
      if (auto event = supervisor_->next_event()) return *event;
      turn(kPatienceMs);
      if (HasFatalFailure()) return {.kind = Kind::kEnded};
    }
  }

  // The parent's next wait status, the loop going on meanwhile.
  int next_status() {
    while (!family_->has_report() && !HasFatalFailure()) turn(kPatienceMs);
    return family_->read_report();
  }

  int deputy() const { return family_->child(); }

  std::unique_ptr<Family> family_;
  std::unique_ptr<Supervisor> supervisor_;
  UniqueFd sigchld_;
  sigset_t old_;
};

std::string read_text(const std::string& path) {
  UniqueFd fd = open_file(path, O_RDONLY);
  char buffer[4096];
  const ssize_t n = read(fd.get(), buffer, sizeof buffer);
  return {buffer, n < 0 ? 0 : static_cast<std::size_t>(n)};
}

TEST_F(SupervisorTest, ParentSeesTheGuestsExitStatus) {
  for (const int status : {0, 3, 255}) {
    start();
    supervisor_->exit_with(status);
    const Event ended = next();
    EXPECT_EQ(ended.kind, Kind::kEnded);
    EXPECT_EQ(WEXITSTATUS(ended.wait_status), status);
    const int seen = family_->read_report();
    EXPECT_TRUE(WIFEXITED(seen));
    EXPECT_EQ(WEXITSTATUS(seen), status);
  }
}

TEST_F(SupervisorTest, ParentSeesTheSignalTheGuestDiedOfAndNoCore) {
  for (const int signal : {SIGTERM, SIGSEGV, SIGABRT, SIGKILL, SIGPIPE, SIGRTMIN, 32, 64}) {
    start();
    supervisor_->die(signal);
    EXPECT_EQ(next().kind, Kind::kEnded);
    const int seen = family_->read_report();
    ASSERT_TRUE(WIFSIGNALED(seen)) << signal;
    EXPECT_EQ(WTERMSIG(seen), signal);
    EXPECT_FALSE(WCOREDUMP(seen));
  }
}

TEST_F(SupervisorTest, ParentSeesTheSignalThoughTheProgramIgnoredIt) {
  for (const int signal : {SIGTERM, SIGRTMIN, 32, 33, 64}) {
    start({.ignores_all = true});
    supervisor_->die(signal);
    EXPECT_EQ(next().kind, Kind::kEnded);
    const int seen = family_->read_report();
    ASSERT_TRUE(WIFSIGNALED(seen)) << signal;
    EXPECT_EQ(WTERMSIG(seen), signal);
  }
}

TEST_F(SupervisorTest, EverySignalThatCanBeCaughtReachesTheGuestWithItsSender) {
  start();
  for (int signal = 1; signal <= 64; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    ASSERT_EQ(kill(deputy(), signal), 0);
    const Event event = next();
    ASSERT_EQ(event.kind, Kind::kSignal) << signal;
    EXPECT_EQ(event.info.ssi_signo, static_cast<unsigned>(signal));
    EXPECT_EQ(event.info.ssi_pid, static_cast<unsigned>(getpid()));
    EXPECT_FALSE(event.from_terminal);
  }
}

TEST_F(SupervisorTest, QueuedSignalsArriveInOrderWithTheirValues) {
  start();
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(sigqueue(deputy(), SIGRTMIN + 1, {.sival_int = i}), 0);
  }
  for (int i = 0; i < 100; ++i) {
    const Event event = next();
    ASSERT_EQ(event.kind, Kind::kSignal);
    EXPECT_EQ(event.info.ssi_int, i);
  }
}

TEST_F(SupervisorTest, SignalsPendingAtTheTakeOverReachTheGuest) {
  start({.pending = {SIGTERM, SIGCHLD, SIGWINCH, SIGUSR1}});
  std::vector<int> seen;
  for (int i = 0; i < 4; ++i) seen.push_back(static_cast<int>(next().info.ssi_signo));
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, (std::vector<int>{SIGUSR1, SIGTERM, SIGCHLD, SIGWINCH}));
}

TEST_F(SupervisorTest, InterruptOfTheTerminalIsToldFromOneThatAProcessSent) {
  int master = -1, slave = -1;
  ASSERT_EQ(openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
  const UniqueFd master_end(master), slave_end(slave);
  start({.terminal = slave});
  ASSERT_EQ(write(master, "\003", 1), 1);
  const Event event = next();
  EXPECT_EQ(event.kind, Kind::kSignal);
  EXPECT_EQ(event.info.ssi_signo, unsigned{SIGINT});
  EXPECT_TRUE(event.from_terminal);
}

TEST_F(SupervisorTest, StopAtHomeIsReportedAndContinueIsForTheGuest) {
  start();
  for (int round = 0; round < 5; ++round) {
    kill(deputy(), SIGSTOP);
    const Event stopped = next();
    ASSERT_EQ(stopped.kind, Kind::kStopped);
    EXPECT_EQ(stopped.signal, SIGSTOP);
    EXPECT_EQ(WSTOPSIG(next_status()), SIGSTOP);
    kill(deputy(), SIGCONT);
    const Event continued = next();
    ASSERT_EQ(continued.kind, Kind::kSignal);
    EXPECT_EQ(continued.info.ssi_signo, unsigned{SIGCONT});
    EXPECT_TRUE(WIFCONTINUED(next_status()));
  }
}

TEST_F(SupervisorTest, StopsAndContinuesWithTheGuestBySameSignalWithoutAnEcho) {
  start();
  for (const int signal : {SIGTSTP, SIGSTOP, SIGTTIN, SIGTTOU}) {
    supervisor_->stop(signal);
    const int stopped = next_status();
    ASSERT_TRUE(WIFSTOPPED(stopped));
    EXPECT_EQ(WSTOPSIG(stopped), signal);
    supervisor_->resume();
    EXPECT_TRUE(WIFCONTINUED(next_status()));
  }
  kill(deputy(), SIGUSR1);
  EXPECT_EQ(next().info.ssi_signo, unsigned{SIGUSR1}) << "nothing of the above came as an event";
}

TEST_F(SupervisorTest, StopsBySigstopWhereTheGroupIsOrphaned) {
  start({.orphaned_group = true});
  supervisor_->stop(SIGTSTP);
  const int stopped = next_status();
  ASSERT_TRUE(WIFSTOPPED(stopped));
  EXPECT_EQ(WSTOPSIG(stopped), SIGSTOP);
  supervisor_->resume();
  EXPECT_TRUE(WIFCONTINUED(next_status()));
}

TEST_F(SupervisorTest, ContinueAtHomeEndsAStopThatCameFromTheGuest) {
  start();
  supervisor_->stop(SIGTSTP);
  EXPECT_TRUE(WIFSTOPPED(next_status()));
  kill(deputy(), SIGCONT);
  const Event continued = next();
  EXPECT_EQ(continued.kind, Kind::kSignal);
  EXPECT_EQ(continued.info.ssi_signo, unsigned{SIGCONT});
}

TEST_F(SupervisorTest, SignalsToAStoppedDeputyWaitUntilItGoesOn) {
  start();
  supervisor_->stop(SIGSTOP);
  EXPECT_TRUE(WIFSTOPPED(next_status()));
  kill(deputy(), SIGTERM);
  supervisor_->resume();
  EXPECT_EQ(next().info.ssi_signo, unsigned{SIGTERM});
}

TEST_F(SupervisorTest, WhatIsPendingHasComeWhenTheDeputyHasAnswered) {
  start();
  for (const int signal : {SIGTERM, SIGINT, SIGRTMIN}) {
    kill(deputy(), signal);
    supervisor_->ask_for_signals();
    EXPECT_TRUE(supervisor_->is_asked());
    while (supervisor_->is_asked() && !HasFatalFailure()) turn(kPatienceMs);
    const auto event = supervisor_->next_event();
    ASSERT_TRUE(event && event->kind == Kind::kSignal);
    EXPECT_EQ(event->info.ssi_signo, static_cast<std::uint32_t>(signal));
    EXPECT_FALSE(supervisor_->next_event());
  }
}

TEST_F(SupervisorTest, AStoppedOrEndedDeputyIsNotWaitedFor) {
  start();
  kill(deputy(), SIGSTOP);
  EXPECT_EQ(next().kind, Kind::kStopped);
  supervisor_->ask_for_signals();
  EXPECT_FALSE(supervisor_->is_asked());
  kill(deputy(), SIGCONT);
  EXPECT_EQ(next().kind, Kind::kSignal);
  while (supervisor_->is_asked() && !HasFatalFailure()) turn(kPatienceMs);
  kill(deputy(), SIGKILL);
  EXPECT_EQ(next().kind, Kind::kKilled);
  supervisor_->ask_for_signals();
  EXPECT_FALSE(supervisor_->is_asked());
}

TEST_F(SupervisorTest, QuickStopsAndContinuesLeaveItAsTheLastOneSays) {
  start();
  for (int i = 0; i < 50; ++i) {
    supervisor_->stop(SIGTSTP);
    supervisor_->resume();
  }
  supervisor_->stop(SIGTSTP);
  int status = 0;
  // Any number of stops and continues may be seen on the way; the last thing is a stop.
  do {
    status = next_status();
    while (family_->has_report()) status = family_->read_report();
  } while (!WIFSTOPPED(status));
  supervisor_->resume();
  EXPECT_TRUE(WIFCONTINUED(next_status()));
}

TEST_F(SupervisorTest, EndReachesTheParentAlsoOutOfAStop) {
  for (const auto& end : std::vector<std::function<void()>>{[&] { supervisor_->exit_with(9); },
                                                            [&] { supervisor_->die(SIGTERM); },
                                                            [&] { supervisor_->die(SIGKILL); }}) {
    start();
    kill(deputy(), SIGSTOP);
    EXPECT_EQ(next().kind, Kind::kStopped);
    end();
    EXPECT_EQ(next().kind, Kind::kEnded);
    int status = family_->read_report();
    while (WIFSTOPPED(status) || WIFCONTINUED(status)) status = family_->read_report();
    EXPECT_TRUE(WIFEXITED(status) || WIFSIGNALED(status));
  }
}

TEST_F(SupervisorTest, KillAtHomeIsAnEventSoThatTheGuestCanBeKilled) {
  start();
  kill(deputy(), SIGKILL);
  const Event killed = next();
  EXPECT_EQ(killed.kind, Kind::kKilled);
  EXPECT_EQ(WTERMSIG(killed.wait_status), SIGKILL);
  EXPECT_EQ(WTERMSIG(family_->read_report()), SIGKILL);
  supervisor_->exit_with(0);  // too late, and no error
}

TEST_F(SupervisorTest, DeathOfTheParentIsAnEventOnlyWhereItWasAskedFor) {
  start({.die_with_parent = true});
  family_->kill_parent();
  EXPECT_EQ(next().kind, Kind::kParentDied);
  kill(deputy(), SIGUSR1);
  EXPECT_EQ(next().info.ssi_signo, unsigned{SIGUSR1});

  start();
  family_->kill_parent();
  kill(deputy(), SIGUSR1);
  EXPECT_EQ(next().kind, Kind::kSignal);
}

TEST_F(SupervisorTest, FailureIsSaidOnTheProgramsStderrAndEndsWith125) {
  auto [read_end, write_end] = make_pipe();
  start({}, std::move(write_end));
  supervisor_->fail("fork to node7: out of memory there");
  EXPECT_EQ(next().kind, Kind::kEnded);
  EXPECT_EQ(WEXITSTATUS(family_->read_report()), 125);
  char text[200] = {};
  ASSERT_GT(read(read_end.get(), text, sizeof text - 1), 0);
  EXPECT_STREQ(text, "telefork: fork to node7: out of memory there\n");
}

TEST_F(SupervisorTest, DeputyEndsWith125WhenItsSessionIsGone) {
  start();
  supervisor_.reset();
  EXPECT_EQ(WEXITSTATUS(family_->read_report()), 125);
}

// The session process is killed while its deputy is stopped: nobody would ever continue it.
TEST_F(SupervisorTest, StoppedDeputyEndsWith125WhenItsSessionProcessIsKilled) {
  for (const bool by_command : {false, true}) {
    family_ = std::make_unique<Family>(Setting{});
    auto [ready, say_ready] = make_pipe();
    const pid_t session = fork();
    if (session == 0) {
      supervisor_ = std::make_unique<Supervisor>(StopWatch::seize(family_->child()),
                                                 std::move(family_->socket), UniqueFd());
      if (next().kind != Kind::kReady) _exit(1);
      by_command ? supervisor_->stop(SIGTSTP) : (void)kill(deputy(), SIGSTOP);
      if (!WIFSTOPPED(next_status())) _exit(1);
      if (write(say_ready.get(), "", 1) != 1) _exit(1);
      for (;;) pause();
    }
    family_->socket.reset();
    char byte = 0;
    ASSERT_TRUE(is_readable(ready.get(), kPatienceMs));
    ASSERT_EQ(read(ready.get(), &byte, 1), 1);
    kill(session, SIGKILL);
    ASSERT_EQ(waitpid(session, nullptr, 0), session);
    int status = family_->read_report();
    while (WIFCONTINUED(status)) status = family_->read_report();
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 125);
  }
}

TEST_F(SupervisorTest, KeepsNameAndArgumentsForPs) {
  start({.arguments = {"./simulate", "--cells", "1000"}});
  const std::string folder = "/proc/" + std::to_string(deputy());
  EXPECT_EQ(read_text(folder + "/comm"), "travelled\n");
  std::string arguments = read_text(folder + "/cmdline");
  std::replace(arguments.begin(), arguments.end(), '\0', ' ');
  EXPECT_EQ(arguments, "./simulate --cells 1000 ");
}

TEST_F(SupervisorTest, HoldsNoDescriptorOfTheProgram) {
  auto [read_end, write_end] = make_pipe();
  fcntl(write_end.get(), F_SETFD, 0);
  start();
  write_end.reset();
  char byte;
  ASSERT_TRUE(is_readable(read_end.get(), kPatienceMs));
  EXPECT_EQ(read(read_end.get(), &byte, 1), 0) << "the reader sees the end";
}

TEST_F(SupervisorTest, RefusesWhatIsNoEvent) {
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  family_ = std::make_unique<Family>(Setting{});
  Supervisor supervisor(StopWatch::seize(deputy()), std::move(ours), UniqueFd());
  const std::vector<char> noise(sizeof(telefork_deputy_event), 'x');
  ASSERT_GT(write(theirs.get(), noise.data(), noise.size()), 0);
  EXPECT_THROW(supervisor.on_readable(), Error);
}

}  // namespace
}  // namespace telefork::deputy
