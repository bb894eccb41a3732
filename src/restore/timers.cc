// Interval timers and those of timer_create(2). Armed late: their time runs from here on.
#include <csignal>
#include <ctime>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "restore/restorer.h"

namespace telefork::restore {
namespace {

using tracee::SyscallProgram;

timeval to_timeval(std::int64_t microseconds) {
  return {microseconds / 1'000'000, microseconds % 1'000'000};
}
timespec to_timespec(std::int64_t nanoseconds) {
  return {nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
}

// The kernel counts ids up. Since Linux 6.15 a process may ask for one; before, timers are made and
// deleted until the count is there.
void create_timer(image::schema::PosixTimer::Reader timer, SyscallProgram& program) {
  sigevent event{};
  event.sigev_notify = static_cast<int>(timer.getNotify());
  event.sigev_signo = static_cast<int>(timer.getSignal());
  event.sigev_value.sival_ptr = reinterpret_cast<void*>(timer.getValue());
  event._sigev_un._tid = static_cast<pid_t>(timer.getTid());
  int id = static_cast<int>(timer.getId());
  tracee::Data id_data = program.object(id);
  std::string name = fmt::format("restoring timer {}", id);
  program.call(name, SYS_timer_create, {timer.getClock(), program.object(event), id_data});
  itimerspec value{to_timespec(timer.getInterval()), to_timespec(timer.getRemaining())};
  program.call("arming " + name, SYS_timer_settime, {id, 0, program.object(value), 0});
}

}  // namespace

void Restorer::restore_timers() {
  if (!timers_) throw Error(Code::kCorrupt, "the image lacks its timers");
  auto timers = timers_->get<image::schema::Timers>();
  SyscallProgram program;
  if (timers.getPosix().size() > 0) {
    program.call("asking for timers by their ids (Linux 6.15)", SYS_prctl,
                 {kernel::kPrTimerCreateRestoreIds, kernel::kPrTimerCreateRestoreIdsOn, 0, 0, 0});
    for (image::schema::PosixTimer::Reader timer : timers.getPosix()) create_timer(timer, program);
    program.call("asking for timers by their ids", SYS_prctl,
                 {kernel::kPrTimerCreateRestoreIds, kernel::kPrTimerCreateRestoreIdsOff, 0, 0, 0});
  }
  for (image::schema::IntervalTimer::Reader timer : timers.getIntervals()) {
    if (timer.getValue() == 0) continue;
    itimerval value{to_timeval(timer.getInterval()), to_timeval(timer.getValue())};
    program.call("restoring an interval timer", SYS_setitimer,
                 {timer.getWhich(), program.object(value), 0});
  }
  run_if_large(program, true);
}

}  // namespace telefork::restore
