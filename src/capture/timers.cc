// Interval timers and those of timer_create(2).
#include <algorithm>
#include <csignal>
#include <ctime>
#include <utility>

#include <sys/syscall.h>
#include <sys/time.h>

#include "base/error.h"
#include "capture/capture.h"
#include "kernel/procfs.h"

namespace telefork::capture {
namespace {

std::int64_t nanoseconds(const timespec& time) {
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}
timespec to_timespec(const timeval& time) { return {time.tv_sec, time.tv_usec * 1000}; }
// No less.
std::int64_t microseconds(std::int64_t nanoseconds) { return (nanoseconds + 999) / 1000; }

// Those of other processes and threads are negative (clockid_t in posix-cpu-timers.c).
bool is_of_processor(int clock) {
  return clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID;
}

unsigned notify_number(const kernel::PosixTimer& timer) {
  unsigned base = SIGEV_SIGNAL;
  if (timer.notify == kernel::PosixTimer::Notify::kNone) base = SIGEV_NONE;
  if (timer.notify == kernel::PosixTimer::Notify::kThread) base = SIGEV_THREAD;
  return timer.to_thread ? base | SIGEV_THREAD_ID : base;
}

// The thread's id as its process knows it, which may live in a pid namespace of its own.
std::uint32_t own_tid_of(pid_t target) {
  try {
    return static_cast<std::uint32_t>(kernel::read_status(target).ns_pids.back());
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return static_cast<std::uint32_t>(target);  // it has ended
  }
}

}  // namespace

// Of one moment. What is left of a timer counts from when the image's clocks were read: the guest's
// go on from there, and no timer may expire before its time.
struct Capture::TimerValues {
  std::vector<itimerspec> intervals;  // by their numbers
  std::vector<itimerspec> posix;      // in the order of read_timers()
  std::int64_t now = 0;               // CLOCK_MONOTONIC, just afterwards

  bool any_armed() const {
    return std::any_of(intervals.begin(), intervals.end(), is_armed) ||
           std::any_of(posix.begin(), posix.end(), is_armed);
  }
  // Whether a timer has expired since `before`.
  bool has_expired_since(const TimerValues& before) const {
    auto has_gone_on = [](const itimerspec& then, const itimerspec& later) {
      return nanoseconds(later.it_value) <= nanoseconds(then.it_value) &&
             is_armed(then) == is_armed(later);
    };
    return !std::equal(before.intervals.begin(), before.intervals.end(), intervals.begin(),
                       has_gone_on) ||
           !std::equal(before.posix.begin(), before.posix.end(), posix.begin(), has_gone_on);
  }

 private:
  static bool is_armed(const itimerspec& timer) { return nanoseconds(timer.it_value) != 0; }
};

Capture::TimerValues Capture::ask_for_timers(const std::vector<kernel::PosixTimer>& timers) {
  tracee::SyscallProgram program;
  std::vector<tracee::Data> intervals, posix;
  for (int which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    intervals.push_back(program.buffer(sizeof(itimerval)));
    program.call("asking for an interval timer", SYS_getitimer, {which, intervals.back()});
  }
  for (const kernel::PosixTimer& timer : timers) {
    posix.push_back(program.buffer(sizeof(itimerspec)));
    program.call("asking for a timer", SYS_timer_gettime, {timer.id, posix.back()});
  }
  tracee::Data now = program.buffer(sizeof(timespec));
  program.call("asking for the time", SYS_clock_gettime, {CLOCK_MONOTONIC, now});
  tracee::ProgramRun run = stub_.run(program);
  TimerValues values;
  for (tracee::Data answer : intervals) {
    auto value = run.object<itimerval>(answer);
    values.intervals.push_back({to_timespec(value.it_interval), to_timespec(value.it_value)});
  }
  for (tracee::Data answer : posix) values.posix.push_back(run.object<itimerspec>(answer));
  values.now = nanoseconds(run.object<timespec>(now));
  return values;
}

void Capture::read_pending_signals() {
  if (!settings_.pending_signals) return;
  pending_ = frozen_.leader().pending_signals(true);
  for (tracee::TracedThread& thread : frozen_.threads()) {
    pending_of_threads_[thread.tid()] = thread.pending_signals(false);
  }
}

// A timer that expires between the two readings would be lost, or expire twice: then both are read
// again. One whose interval is so short that this goes on for ever has long expired before.
Capture::TimerValues Capture::read_timers_and_signals(
    const std::vector<kernel::PosixTimer>& timers) {
  constexpr int kMostReadings = 16;
  TimerValues values;
  if (settings_.timers) values = ask_for_timers(timers);
  read_pending_signals();
  if (!settings_.pending_signals) return values;
  for (int reading = 1; values.any_armed() && reading < kMostReadings; ++reading) {
    TimerValues again = ask_for_timers(timers);
    if (!again.has_expired_since(values)) break;
    values = std::move(again);
    read_pending_signals();
  }
  // ITIMER_REAL is not armed anew when it expires, but when its SIGALRM is taken (dequeue_signal()
  // in kernel/signal.c). Until then it has an interval and nothing left, and to set that would end
  // it.
  if (values.intervals.empty()) return values;
  itimerspec& real = values.intervals[ITIMER_REAL];
  const bool waits = std::any_of(pending_.begin(), pending_.end(),
                                 [](const siginfo_t& info) { return info.si_signo == SIGALRM; });
  if (waits && nanoseconds(real.it_value) == 0) real.it_value = real.it_interval;
  return values;
}

void Capture::write_timers(image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto record = message.initRoot<image::schema::Timers>();
  std::vector<kernel::PosixTimer> timers;
  if (settings_.timers) timers = kernel::read_timers(survey_.pid);
  TimerValues values = read_timers_and_signals(timers);
  const std::int64_t passed = values.now - monotonic_;
  // A clock of processor time stands still meanwhile.
  auto remaining = [passed](const itimerspec& value, bool of_processor) {
    std::int64_t left = nanoseconds(value.it_value);
    return left == 0 || of_processor ? left : left + passed;
  };
  auto intervals = record.initIntervals(static_cast<unsigned>(values.intervals.size()));
  for (unsigned which = 0; which < intervals.size(); ++which) {
    const itimerspec& value = values.intervals[which];
    intervals[which].setWhich(which);
    intervals[which].setValue(microseconds(remaining(value, which != ITIMER_REAL)));
    intervals[which].setInterval(microseconds(nanoseconds(value.it_interval)));
  }
  auto list = record.initPosix(static_cast<unsigned>(timers.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    const kernel::PosixTimer& timer = timers[i];
    list[i].setId(static_cast<std::uint32_t>(timer.id));
    list[i].setClock(timer.clock_id);
    list[i].setNotify(notify_number(timer));
    list[i].setSignal(static_cast<std::uint32_t>(timer.signal));
    list[i].setValue(timer.value);
    list[i].setTid(timer.to_thread && timer.target > 0 ? own_tid_of(timer.target) : 0);
    list[i].setRemaining(remaining(values.posix[i], is_of_processor(timer.clock_id)));
    list[i].setInterval(nanoseconds(values.posix[i].it_interval));
  }
  sink.write(image::RecordType::kTimers, message);
}

}  // namespace telefork::capture
