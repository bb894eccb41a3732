// Interval timers and those of timer_create(2).
#include <csignal>
#include <ctime>

#include <sys/syscall.h>
#include <sys/time.h>

#include "capture/capture.h"

namespace telefork::capture {
namespace {

std::int64_t microseconds(const timeval& time) { return time.tv_sec * 1'000'000 + time.tv_usec; }
std::int64_t nanoseconds(const timespec& time) {
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

unsigned notify_number(const kernel::PosixTimer& timer) {
  unsigned base = SIGEV_SIGNAL;
  if (timer.notify == kernel::PosixTimer::Notify::kNone) base = SIGEV_NONE;
  if (timer.notify == kernel::PosixTimer::Notify::kThread) base = SIGEV_THREAD;
  return timer.to_thread ? base | SIGEV_THREAD_ID : base;
}

}  // namespace

void Capture::write_timers(image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto timers = message.initRoot<image::schema::Timers>();
  if (!settings_.timers) {
    sink.write(image::RecordType::kTimers, message);
    return;
  }
  std::vector<kernel::PosixTimer> posix = kernel::read_timers(survey_.pid);
  tracee::SyscallProgram program;
  std::vector<tracee::Data> answers;
  for (int which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    answers.push_back(program.buffer(sizeof(itimerval)));
    program.call("asking for an interval timer", SYS_getitimer, {which, answers.back()});
  }
  std::vector<tracee::Data> posix_answers;
  for (const kernel::PosixTimer& timer : posix) {
    posix_answers.push_back(program.buffer(sizeof(itimerspec)));
    program.call("asking for a timer", SYS_timer_gettime, {timer.id, posix_answers.back()});
  }
  tracee::ProgramRun run = stub_.run(program);

  auto intervals = timers.initIntervals(3);
  for (unsigned which = 0; which < 3; ++which) {
    auto value = run.object<itimerval>(answers[which]);
    intervals[which].setWhich(which);
    intervals[which].setValue(microseconds(value.it_value));
    intervals[which].setInterval(microseconds(value.it_interval));
  }
  auto list = timers.initPosix(static_cast<unsigned>(posix.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    auto value = run.object<itimerspec>(posix_answers[i]);
    list[i].setId(static_cast<std::uint32_t>(posix[i].id));
    list[i].setClock(posix[i].clock_id);
    list[i].setNotify(notify_number(posix[i]));
    list[i].setSignal(static_cast<std::uint32_t>(posix[i].signal));
    list[i].setValue(posix[i].value);
    list[i].setTid(posix[i].to_thread ? static_cast<std::uint32_t>(posix[i].target) : 0);
    list[i].setRemaining(nanoseconds(value.it_value));
    list[i].setInterval(nanoseconds(value.it_interval));
  }
  sink.write(image::RecordType::kTimers, message);
}

}  // namespace telefork::capture
