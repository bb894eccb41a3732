#include "restore/steps.h"

#include <linux/sched.h>
#include <sched.h>
#include <cstring>
#include <ctime>

#include <fmt/format.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "tracee/machine_state.h"

namespace telefork::restore {

using image::schema::Thread;
using tracee::SyscallProgram;

namespace {

constexpr int kSignals = 64;

timeval to_timeval(std::int64_t microseconds) {
  return {microseconds / 1'000'000, microseconds % 1'000'000};
}

timespec to_timespec(std::int64_t nanoseconds) {
  return {nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
}

}  // namespace

void copy_exactly(::capnp::Data::Reader from, void* to, std::size_t size, const char* what) {
  if (from.size() != size) {
    throw Error(Code::kCorrupt,
                fmt::format("{} of a thread: {} bytes instead of {}", what, from.size(), size));
  }
  std::memcpy(to, from.begin(), size);
}

tracee::ThreadState decode_thread_state(Thread::Reader thread) {
  tracee::ThreadState state;
  copy_exactly(thread.getRegisters(), &state.registers.general, sizeof(state.registers.general),
               "the registers");
  state.xstate.assign(thread.getXstate().begin(), thread.getXstate().end());
  state.signal_mask = thread.getSignalMask();
  return state;
}

void add_thp_setting(image::schema::Process::Reader p, SyscallProgram& program) {
  program.call("restoring THP_DISABLE", SYS_prctl,
               {PR_SET_THP_DISABLE, p.getThpDisable() & 1, p.getThpDisable() & ~1u, 0, 0});
}

void add_process_settings(image::schema::Process::Reader p, SyscallProgram& program) {
  program.call("restoring the umask", SYS_umask, {p.getUmask()});
  program.call("restoring the personality", SYS_personality, {p.getPersonality()});
  program.call("restoring the subreaper flag", SYS_prctl,
               {PR_SET_CHILD_SUBREAPER, p.getChildSubreaper() ? 1 : 0, 0, 0, 0});
  program.call("restoring keepcaps", SYS_prctl,
               {PR_SET_KEEPCAPS, p.getKeepCaps() ? 1 : 0, 0, 0, 0});
  add_thp_setting(p, program);
  if (p.getMdwe() != 0) {
    program.call("restoring MDWE", SYS_prctl, {kernel::kPrSetMdwe, p.getMdwe(), 0, 0, 0});
  }
  if (p.getMemoryMerge()) {
    program.call("restoring MEMORY_MERGE", SYS_prctl, {kernel::kPrSetMemoryMerge, 1, 0, 0, 0});
  }
}

void add_permissions(image::schema::Process::Reader p, SyscallProgram& program) {
  tracee::add_xstate_permissions(p.getXstatePermissions(), program);
  for (unsigned command = 1; command != 0; command <<= 1) {
    if ((p.getMembarrier() & command) == 0) continue;
    program.call(fmt::format("registering for membarrier (command {})", command), SYS_membarrier,
                 {command, 0, 0});
  }
}

void add_registrations(Thread::Reader thread, SyscallProgram& program) {
  program.call("restoring clear_child_tid", SYS_set_tid_address, {thread.getClearChildTid()});
  if (thread.getRobustList() != 0) {
    program.call("restoring a robust list", SYS_set_robust_list,
                 {thread.getRobustList(), thread.getRobustListSize()});
  }
  if (thread.getRseq() != 0) {
    program.call(
        "registering rseq", SYS_rseq,
        {thread.getRseq(), thread.getRseqSize(), thread.getRseqFlags(), thread.getRseqSignature()});
  }
}

void add_thread_settings(Thread::Reader thread, SyscallProgram& program) {
  std::string name = thread.getComm();
  program.call("naming a thread", SYS_prctl, {PR_SET_NAME, program.text(name), 0, 0, 0});
  // SS_ONSTACK tells where the thread is, it cannot be asked for.
  stack_t alternate{reinterpret_cast<void*>(thread.getAltStack()),
                    static_cast<int>(thread.getAltStackFlags() & ~unsigned{SS_ONSTACK}),
                    thread.getAltStackSize()};
  program.call("restoring an alternate signal stack", SYS_sigaltstack,
               {program.object(alternate), 0});
  program.call("restoring the timer slack", SYS_prctl,
               {PR_SET_TIMERSLACK, thread.getTimerSlack(), 0, 0, 0});
  // Of a blank process it is another.
  program.call("restoring the parent death signal", SYS_prctl,
               {PR_SET_PDEATHSIG, thread.getParentDeathSignal(), 0, 0, 0});
}

tracee::Result add_thread_start(const ThreadStart& start, SyscallProgram& program) {
  clone_args arguments{};
  arguments.flags =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  arguments.stack = start.stack.start.value();
  arguments.stack_size = start.stack.size - sizeof(std::uint64_t);
  if (start.pointer != 0) {
    arguments.flags |= CLONE_SETTLS;
    arguments.tls = start.pointer;
  }
  if (start.tid == 0) {
    return program.call("making a thread", SYS_clone3,
                        {program.object(arguments), sizeof(arguments)});
  }
  arguments.set_tid_size = 1;
  tracee::Data tid_data = program.object(start.tid);
  tracee::Data data = program.object(arguments);
  program.point(data + offsetof(clone_args, set_tid), tid_data);
  return program.call_expecting(fmt::format("making thread {}", start.tid), start.tid, SYS_clone3,
                                {data, sizeof(arguments)});
}

void add_signal_actions(image::schema::Signals::Reader signals, bool all, SyscallProgram& program) {
  std::vector<kernel::Sigaction> actions(kSignals + 1);
  std::vector<bool> named(kSignals + 1);
  for (image::schema::SignalAction::Reader action : signals.getActions()) {
    if (action.getSignal() > kSignals) throw Error(Code::kCorrupt, "an action of no signal");
    actions[action.getSignal()] = {action.getHandler(), action.getFlags(), action.getRestorer(),
                                   action.getMask()};
    named[action.getSignal()] = true;
  }
  for (unsigned signal = 1; signal <= kSignals; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP || !(all || named[signal])) continue;
    program.call(fmt::format("restoring the action of signal {}", signal), SYS_rt_sigaction,
                 {signal, program.object(actions[signal]), 0, sizeof(std::uint64_t)});
  }
}

void add_pending(::capnp::List<::capnp::Data>::Reader pending, pid_t pid, pid_t tid,
                 SyscallProgram& program) {
  for (::capnp::Data::Reader bytes : pending) {
    const siginfo_t info = decode_siginfo(bytes);
    std::string name = fmt::format("queueing signal {}", info.si_signo);
    if (tid == 0) {
      program.call(name, SYS_rt_sigqueueinfo, {pid, info.si_signo, program.object(info)});
    } else {
      program.call(name, SYS_rt_tgsigqueueinfo, {pid, tid, info.si_signo, program.object(info)});
    }
  }
}

sigevent event_of(image::schema::PosixTimer::Reader timer) {
  sigevent event{};
  event.sigev_notify = static_cast<int>(timer.getNotify());
  event.sigev_signo = static_cast<int>(timer.getSignal());
  event.sigev_value.sival_ptr = reinterpret_cast<void*>(timer.getValue());
  event._sigev_un._tid = static_cast<pid_t>(timer.getTid());
  return event;
}

std::string timer_name(image::schema::PosixTimer::Reader timer) {
  return fmt::format("restoring timer {}", timer.getId());
}

void add_arming(image::schema::PosixTimer::Reader timer, SyscallProgram& program) {
  itimerspec value{to_timespec(timer.getInterval()), to_timespec(timer.getRemaining())};
  program.call("arming: " + timer_name(timer), SYS_timer_settime,
               {timer.getId(), 0, program.object(value), 0});
}

void add_arming(image::schema::IntervalTimer::Reader timer, SyscallProgram& program) {
  itimerval value{to_timeval(timer.getInterval()), to_timeval(timer.getValue())};
  program.call("restoring an interval timer", SYS_setitimer,
               {timer.getWhich(), program.object(value), 0});
}

}  // namespace telefork::restore
