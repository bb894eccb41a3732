#include "tracee/pending_signals.h"

#include <ctime>
#include <vector>

#include <sys/syscall.h>

#include "tracee/testing_victim.h"

namespace telefork::tracee {
namespace {

siginfo_t queued(int signal, int value) {
  siginfo_t info{};
  info.si_signo = signal;
  info.si_code = SI_QUEUE;
  info.si_value.sival_int = value;
  return info;
}

void send(pid_t pid, int signal, int value) {
  ASSERT_EQ(::sigqueue(pid, signal, {.sival_int = value}), 0);
}

// Finds these values, in this order, of those that are pending for it; 0 when it does.
Victim make_victim(int signal, std::vector<int> values) {
  return Victim([=](int stop_fd, int ready_fd) {
    sigset_t all;
    sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, nullptr);
    char byte = 0;
    if (::write(ready_fd, "", 1) != 1 || ::read(stop_fd, &byte, 1) != 1) return 255;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    const timespec no_time{};
    for (int value : values) {
      siginfo_t info{};
      if (::sigtimedwait(&set, &info, &no_time) != signal) return 254;
      if (info.si_value.sival_int != value) return 1 + info.si_value.sival_int;
    }
    return ::sigtimedwait(&set, nullptr, &no_time) == -1 ? 0 : 253;
  });
}

void queue_ahead(pid_t pid, const std::vector<siginfo_t>& signals) {
  TracedThread thread = TracedThread::seize(pid, 0);
  thread.interrupt();
  Stub stub(thread, pid, {});
  SyscallProgram program;
  add_queueing_ahead(signals, stub, program);
  if (!program.empty()) stub.run(program);
  stub.remove();
}

TEST(PendingSignals, ComeBackAheadOfThoseThatWait) {
  Victim victim = make_victim(SIGRTMIN, {1, 2, 3, 4, 5});
  for (int value : {3, 4, 5}) send(victim.pid(), SIGRTMIN, value);
  send(victim.pid(), SIGRTMIN + 1, 9);
  queue_ahead(victim.pid(), {queued(SIGRTMIN, 1), queued(SIGRTMIN + 1, 8), queued(SIGRTMIN, 2)});
  EXPECT_EQ(victim.finish(), 0);
}

// Of such a one the kernel keeps one.
TEST(PendingSignals, OfANumberThatIsNotQueuedTheFirstStays) {
  Victim victim = make_victim(SIGUSR1, {1});
  send(victim.pid(), SIGUSR1, 2);
  queue_ahead(victim.pid(), {queued(SIGUSR1, 1)});
  EXPECT_EQ(victim.finish(), 0);
}

TEST(PendingSignals, LeaveOthersAsTheyAre) {
  Victim victim = make_victim(SIGRTMIN + 2, {1, 2});
  for (int value : {1, 2}) send(victim.pid(), SIGRTMIN + 2, value);
  queue_ahead(victim.pid(), {queued(SIGRTMIN, 7)});
  queue_ahead(victim.pid(), {});
  EXPECT_EQ(victim.finish(), 0);
}

TEST(PendingSignals, OfOneThreadRemainItsOwn) {
  Victim victim = make_victim(SIGRTMIN, {3, 4, 1, 2});
  send(victim.pid(), SIGRTMIN, 2);
  for (int value : {3, 4}) {
    siginfo_t info = queued(SIGRTMIN, value);
    ASSERT_EQ(::syscall(SYS_rt_tgsigqueueinfo, victim.pid(), victim.pid(), SIGRTMIN, &info), 0);
  }
  queue_ahead(victim.pid(), {queued(SIGRTMIN, 1)});
  TracedThread thread = TracedThread::seize(victim.pid(), 0);
  thread.interrupt();
  EXPECT_EQ(thread.pending_signals(false).size(), 2U);
  EXPECT_EQ(thread.pending_signals(true).size(), 2U);
  thread.detach();
  EXPECT_EQ(victim.finish(), 0);
}

TEST(PendingSignals, ThatAreTooManyStayAhead) {
  std::vector<int> values;
  for (int i = 0; i <= static_cast<int>(kMostRequeued); ++i) values.push_back(i);
  values.push_back(-1);
  Victim victim = make_victim(SIGRTMIN, values);
  values.pop_back();
  for (int value : values) send(victim.pid(), SIGRTMIN, value);
  queue_ahead(victim.pid(), {queued(SIGRTMIN, -1)});
  EXPECT_EQ(victim.finish(), 0);
}

TEST(PendingSignals, ComeBackAheadOfAsManyAsMayWait) {
  std::vector<int> values;
  for (int i = 0; i <= static_cast<int>(kMostRequeued); ++i) values.push_back(i);
  Victim victim = make_victim(SIGRTMIN, values);
  for (std::size_t i = 1; i < values.size(); ++i) send(victim.pid(), SIGRTMIN, values[i]);
  queue_ahead(victim.pid(), {queued(SIGRTMIN, 0)});
  EXPECT_EQ(victim.finish(), 0);
}

}  // namespace
}  // namespace telefork::tracee
