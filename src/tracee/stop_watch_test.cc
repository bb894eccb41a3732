#include "tracee/stop_watch.h"

#include <cerrno>
#include <csignal>
#include <functional>
#include <optional>
#include <string>

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace telefork::tracee {
namespace {

using Kind = StopWatch::Event::Kind;

constexpr int kPatienceMs = 20000;

bool is_readable(int fd, int patience_ms) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&ready, 1, patience_ms) == 1;
}

// A parent that reports every wait status of its one child, neither of them the tracer: this
// process is. The child waits for signals; SIGUSR1 makes it exit with 7.
class Family {
 public:
  Family() {
    auto [read_end, write_end] = make_pipe();
    reports_ = std::move(read_end);
    parent_ = fork();
    if (parent_ == 0) run_parent(write_end.get());
    child_ = read_report();
  }
  ~Family() {
    if (child_ > 0) kill(child_, SIGKILL);
    kill(parent_, SIGKILL);
    waitpid(parent_, nullptr, 0);
  }

  pid_t child() const { return child_; }
  bool has_report() const { return is_readable(reports_.get(), 0); }
  int read_report() const {
    int value = -1;
    EXPECT_TRUE(is_readable(reports_.get(), kPatienceMs)) << "the parent saw nothing";
    EXPECT_EQ(read(reports_.get(), &value, sizeof value), ssize_t{sizeof value});
    return value;
  }

 private:
  [[noreturn]] static void run_parent(int reports) {
    setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    signal(SIGUSR1, [](int) { _exit(7); });
    const pid_t child = fork();
    if (child == 0) {
      setpgid(0, 0);
      for (;;) pause();
    }
    setpgid(child, child);
    signal(SIGUSR1, SIG_DFL);
    int value = child;
    while (write(reports, &value, sizeof value) > 0) {
      if (WIFEXITED(value) && value != child) break;
      if (waitpid(child, &value, WUNTRACED | WCONTINUED) < 0) break;
    }
    _exit(0);
  }

  UniqueFd reports_;
  pid_t parent_ = -1;
  pid_t child_ = -1;
};

class StopWatchTest : public ::testing::Test {
 protected:
  StopWatchTest() {
    sigset_t sigchld;
    sigemptyset(&sigchld);
    sigaddset(&sigchld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &sigchld, &old_);
    sigchld_ = UniqueFd(signalfd(-1, &sigchld, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~StopWatchTest() override { sigprocmask(SIG_SETMASK, &old_, nullptr); }

  // The next event, answering the kernel at every SIGCHLD.
  StopWatch::Event next(StopWatch& watch) {
    while (events_.empty()) {
      for (const auto& event : watch.on_sigchld()) events_.push_back(event);
      if (!events_.empty()) break;
      EXPECT_TRUE(is_readable(sigchld_.get(), kPatienceMs)) << "nothing happened";
      signalfd_siginfo info;
      if (read(sigchld_.get(), &info, sizeof info) < 0 && errno != EAGAIN) break;
    }
    const StopWatch::Event event = events_.front();
    events_.erase(events_.begin());
    return event;
  }

  std::vector<StopWatch::Event> events_;
  UniqueFd sigchld_;
  sigset_t old_;
};

TEST_F(StopWatchTest, RealParentSeesStopContinueAndExitOfAWatchedChild) {
  Family family;
  StopWatch watch = StopWatch::seize(family.child());

  kill(family.child(), SIGSTOP);
  const StopWatch::Event stopped = next(watch);
  EXPECT_EQ(stopped.kind, Kind::kStopped);
  EXPECT_EQ(stopped.signal, SIGSTOP);
  const int stop_status = family.read_report();
  EXPECT_TRUE(WIFSTOPPED(stop_status));
  EXPECT_EQ(WSTOPSIG(stop_status), SIGSTOP);

  kill(family.child(), SIGCONT);
  EXPECT_EQ(next(watch).kind, Kind::kContinued);
  EXPECT_TRUE(WIFCONTINUED(family.read_report()));

  kill(family.child(), SIGUSR1);
  const StopWatch::Event ended = next(watch);
  EXPECT_EQ(ended.kind, Kind::kEnded);
  EXPECT_EQ(WEXITSTATUS(ended.wait_status), 7);
  const int status = family.read_report();
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(watch.pid(), 0);
}

TEST_F(StopWatchTest, SeesTheTerminalsStopSignalByItsNumberTenTimesOver) {
  Family family;
  StopWatch watch = StopWatch::seize(family.child());
  for (int round = 0; round < 10; ++round) {
    kill(family.child(), SIGTSTP);
    const StopWatch::Event stopped = next(watch);
    ASSERT_EQ(stopped.kind, Kind::kStopped);
    EXPECT_EQ(stopped.signal, SIGTSTP);
    EXPECT_EQ(WSTOPSIG(family.read_report()), SIGTSTP);
    kill(family.child(), SIGCONT);
    ASSERT_EQ(next(watch).kind, Kind::kContinued);
    EXPECT_TRUE(WIFCONTINUED(family.read_report()));
  }
}

TEST_F(StopWatchTest, ReportsAProcessThatWasStoppedBeforeItWasSeized) {
  Family family;
  kill(family.child(), SIGSTOP);
  EXPECT_TRUE(WIFSTOPPED(family.read_report()));
  StopWatch watch = StopWatch::seize(family.child());
  EXPECT_EQ(next(watch).kind, Kind::kStopped);
  kill(family.child(), SIGCONT);
  EXPECT_EQ(next(watch).kind, Kind::kContinued);
  EXPECT_TRUE(WIFCONTINUED(family.read_report()));
}

TEST_F(StopWatchTest, GivesADeathBySignalToTheParentAlsoOutOfAStop) {
  Family family;
  StopWatch watch = StopWatch::seize(family.child());
  kill(family.child(), SIGSTOP);
  EXPECT_EQ(next(watch).kind, Kind::kStopped);
  EXPECT_TRUE(WIFSTOPPED(family.read_report()));
  kill(family.child(), SIGKILL);
  const StopWatch::Event ended = next(watch);
  EXPECT_EQ(ended.kind, Kind::kEnded);
  EXPECT_EQ(WTERMSIG(ended.wait_status), SIGKILL);
  EXPECT_EQ(WTERMSIG(family.read_report()), SIGKILL);
}

TEST_F(StopWatchTest, LeavesAStoppedProcessStoppedAndARunningOneRunningWhenItEnds) {
  Family stopped, running;
  {
    StopWatch watch = StopWatch::seize(stopped.child());
    kill(stopped.child(), SIGSTOP);
    EXPECT_EQ(next(watch).kind, Kind::kStopped);
    StopWatch other = StopWatch::seize(running.child());
  }
  EXPECT_TRUE(WIFSTOPPED(stopped.read_report()));
  EXPECT_FALSE(stopped.has_report());
  kill(stopped.child(), SIGCONT);
  EXPECT_TRUE(WIFCONTINUED(stopped.read_report()));
  for (const Family* family : {&stopped, &running}) {
    kill(family->child(), SIGUSR1);
    EXPECT_EQ(WEXITSTATUS(family->read_report()), 7);
  }
}

// Runs `act` in a process of its own, which is killed at the point where `act` ends.
void as_tracer_that_dies(const std::function<void()>& act) {
  const pid_t tracer = fork();
  if (tracer == 0) {
    act();
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(tracer, &status, 0), tracer);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST_F(StopWatchTest, RunningProcessRunsOnWhenItsTracerDies) {
  Family family;
  as_tracer_that_dies([&] { new StopWatch(StopWatch::seize(family.child())); });
  EXPECT_FALSE(family.has_report());
  kill(family.child(), SIGUSR1);
  EXPECT_EQ(WEXITSTATUS(family.read_report()), 7);
}

TEST_F(StopWatchTest, StoppedProcessCanBeContinuedWhenItsTracerHasDied) {
  Family family;
  as_tracer_that_dies([&] {
    auto* watch = new StopWatch(StopWatch::seize(family.child()));
    kill(family.child(), SIGSTOP);
    next(*watch);
  });
  EXPECT_TRUE(WIFSTOPPED(family.read_report()));
  kill(family.child(), SIGCONT);
  EXPECT_TRUE(WIFCONTINUED(family.read_report()));
  kill(family.child(), SIGUSR1);
  EXPECT_EQ(WEXITSTATUS(family.read_report()), 7);
}

TEST_F(StopWatchTest, SignalThatWasWithATracerThatDiesIsStillDelivered) {
  Family family;
  as_tracer_that_dies([&] {
    auto* watch = new StopWatch(StopWatch::seize(family.child()));
    kill(family.child(), SIGUSR1);
    // Its signal-delivery-stop is seen but never answered.
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(watch->pid()), &info, WSTOPPED | WNOWAIT | __WALL);
  });
  EXPECT_EQ(WEXITSTATUS(family.read_report()), 7);
}

}  // namespace
}  // namespace telefork::tracee
