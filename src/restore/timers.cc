// Interval timers and those of timer_create(2). Armed late: their time runs from here on.
#include <csignal>
#include <ctime>
#include <map>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "restore/restorer.h"
#include "restore/steps.h"

namespace telefork::restore {
namespace {

using tracee::SyscallProgram;

constexpr std::uint32_t kMaxCountedId = 100'000;

}  // namespace

// Since Linux 6.15 a process may ask for an id.
bool Restorer::try_create_timers_by_id(TimerList timers) {
  SyscallProgram program;
  program.call("asking for timers by their ids", SYS_prctl,
               {kernel::kPrTimerCreateRestoreIds, kernel::kPrTimerCreateRestoreIdsOn, 0, 0, 0});
  if (!settings_.timers_by_id || blank_->stub().try_run(program).failed() != tracee::kStubDone) {
    return false;
  }
  program = SyscallProgram();
  for (image::schema::PosixTimer::Reader timer : timers) {
    tracee::Data id = program.object(static_cast<int>(timer.getId()));
    program.call(timer_name(timer), SYS_timer_create,
                 {timer.getClock(), program.object(event_of(timer)), id});
    run_if_large(program);
  }
  program.call("asking for timers by their ids", SYS_prctl,
               {kernel::kPrTimerCreateRestoreIds, kernel::kPrTimerCreateRestoreIdsOff, 0, 0, 0});
  run_if_large(program, true);
  return true;
}

// Before, ids of a process count up from 0: what lies between is made and deleted.
void Restorer::create_timers_by_count(TimerList timers) {
  std::map<std::uint32_t, image::schema::PosixTimer::Reader> by_id;
  for (image::schema::PosixTimer::Reader timer : timers) by_id.emplace(timer.getId(), timer);
  std::uint32_t last = by_id.rbegin()->first;
  if (last > kMaxCountedId) {
    throw Error(Code::kUnsupported,
                fmt::format("timer {} cannot get its number back before Linux 6.15", last));
  }
  SyscallProgram program;
  sigevent silent{};
  silent.sigev_notify = SIGEV_NONE;
  std::vector<std::pair<tracee::Data, std::uint32_t>> made;
  auto run = [&] {
    tracee::ProgramRun results = blank_->stub().run(program);
    for (auto& [data, id] : made) {
      if (results.object<std::uint32_t>(data) == id) continue;
      throw Error(Code::kUnsupported,
                  fmt::format("timer {} got another number (Linux 6.15 could be asked)", id));
    }
    program = SyscallProgram();
    made.clear();
  };
  for (std::uint32_t id = 0; id <= last; ++id) {
    auto wanted = by_id.find(id);
    tracee::Data data = program.buffer(sizeof(int));
    made.emplace_back(data, id);
    bool keep = wanted != by_id.end();
    program.call(fmt::format("restoring timer {}", id), SYS_timer_create,
                 {keep ? wanted->second.getClock() : CLOCK_MONOTONIC,
                  program.object(keep ? event_of(wanted->second) : silent), data});
    if (!keep) program.call("deleting a timer", SYS_timer_delete, {id});
    if (program.loaded_size() > kLongProgram) run();
  }
  run();
}

void Restorer::restore_timers() {
  if (!timers_) throw Error(Code::kCorrupt, "the image lacks its timers");
  auto timers = timers_->get<image::schema::Timers>();
  SyscallProgram program;
  if (timers.getPosix().size() > 0 && !try_create_timers_by_id(timers.getPosix())) {
    create_timers_by_count(timers.getPosix());
  }
  for (image::schema::PosixTimer::Reader timer : timers.getPosix()) {
    add_arming(timer, program);
    run_if_large(program);
  }
  for (image::schema::IntervalTimer::Reader timer : timers.getIntervals()) {
    if (timer.getValue() != 0) add_arming(timer, program);
  }
  run_if_large(program, true);
}

}  // namespace telefork::restore
