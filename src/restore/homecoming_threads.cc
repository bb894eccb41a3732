// Threads that come home: most go on under their old ids; some were begun there, some have ended.
#include <algorithm>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs.h"
#include "restore/homecoming.h"
#include "restore/steps.h"
#include "tracee/machine_state.h"
#include "tracee/memory.h"

namespace telefork::restore {
namespace {

using image::schema::PosixTimer;
using image::schema::Thread;
using tracee::SyscallProgram;

constexpr std::uint64_t kHomeStack = 8192;
constexpr int kFirstRealTime = 32;           // the kernel's SIGRTMIN
constexpr std::size_t kRobustListHead = 24;  // struct robust_list_head

void add_rseq(const tracee::TracedThread::RseqArea& area, unsigned flags, SyscallProgram& program) {
  program.call("registering rseq", SYS_rseq, {area.address, area.size, flags, area.signature});
}

}  // namespace

void Homecoming::read_threads() {
  for (tracee::TracedThread& thread : parked_.frozen().threads()) {
    home_threads_.push_back(
        {&thread, thread.tid(), kernel::read_status(thread.tid()).ns_pids.back()});
  }
}

const Homecoming::HomeThread* Homecoming::home_thread(std::uint32_t own_tid) const {
  auto found = std::find_if(
      home_threads_.begin(), home_threads_.end(),
      [&](const HomeThread& home) { return static_cast<std::uint32_t>(home.own_tid) == own_tid; });
  return found == home_threads_.end() ? nullptr : &*found;
}

bool Homecoming::lives_on(const HomeThread& home) const {
  return std::any_of(threads_.begin(), threads_.end(), [&](const image::Record& record) {
    return record.get<Thread>().getTid() == static_cast<std::uint32_t>(home.own_tid);
  });
}

// An id that was free again there may have been given to a thread that was begun there. It is that
// one of home's here then, with what the kernel writes to in other places.
bool Homecoming::is_another(const HomeThread& home, Thread::Reader thread) {
  return tracee::thread_pointer(home.thread->registers()) !=
         tracee::thread_pointer(decode_thread_state(thread).registers);
}

bool Homecoming::stays_the_same(const HomeThread& home) const {
  return std::any_of(threads_.begin(), threads_.end(), [&](const image::Record& record) {
    auto thread = record.get<Thread>();
    return thread.getTid() == static_cast<std::uint32_t>(home.own_tid) && !is_another(home, thread);
  });
}

void Homecoming::check_threads() const {
  for (const HomeThread& home : home_threads_) {
    if (lives_on(home)) continue;
    if (home.tid == parked_.pid()) {
      throw Error(Code::kRefused, "its first thread has ended there, and the others live on");
    }
    if (home.tid == parked_.caller()) {
      throw Error(Code::kRefused,
                  fmt::format("thread {}, which made the call, has ended there", home.own_tid));
    }
  }
  for (const image::Record& record : threads_) {
    decode_thread_state(record.get<Thread>());  // throws
  }
}

// Of those that were begun there, while what came can be read.
void Homecoming::find_locks() {
  for (const image::Record& record : threads_) {
    auto thread = record.get<Thread>();
    if (home_thread(thread.getTid()) != nullptr) continue;
    locks_[thread.getTid()] = find_held_locks(RemotePtr(thread.getRobustList()), thread.getTid(),
                                              [this](RemotePtr at) { return read_what_came(at); });
  }
}

// They wait at the gate, behind which they end: until the flip says something else.
void Homecoming::begin_threads() {
  tracee::Stub& stub = parked_.stub();
  RemotePtr counter = stub.allocate(sizeof(std::uint32_t));
  tracee::write_object<std::uint32_t>(parked_.pid(), counter, 0);
  for (const image::Record& record : threads_) {
    auto thread = record.get<Thread>();
    if (home_thread(thread.getTid()) != nullptr) continue;
    SyscallProgram ends;
    ends.undo(SYS_exit, {0});
    RemotePtr address = stub.allocate(ends.loaded_size());
    tracee::StubProgram header{};
    header.gate = parked_.gate().value();
    header.done_counter = counter.value();
    tracee::write_memory(parked_.pid(), address, ends.encode(address, header));
    Range stack{stub.allocate(kHomeStack), kHomeStack};
    tracee::write_object(parked_.pid(), stack.end() - sizeof(std::uint64_t), address.value());
    begin_thread(thread, stack, address, counter);
  }
}

// Under its own id if that is free and may be chosen.
void Homecoming::begin_thread(Thread::Reader thread, Range stack, RemotePtr address,
                              RemotePtr counter) {
  // Until it is at the gate it reads the step that has made it.
  auto all_waiting = static_cast<std::uint32_t>(begun_.size() + 1);
  // What rt_sigreturn(2) does not set.
  ThreadStart start{stack, thread.getTid(),
                    tracee::thread_pointer(decode_thread_state(thread).registers)};
  SyscallProgram program;
  tracee::Result result = add_thread_start(start, program);
  program.wait_until("waiting for the thread", counter, all_waiting);
  tracee::ProgramRun run = parked_.stub().try_run(program);
  if (run.failed() != tracee::kStubDone) {
    if (thread.getClearChildTid() == 0) {
      throw Error(
          Code::kRefused,
          fmt::format("thread {} was begun there: its id is taken here, or may not be chosen "
                      "by this user, and it could not be told another",
                      thread.getTid()));
    }
    program = SyscallProgram();
    start.tid = 0;
    result = add_thread_start(start, program);
    program.wait_until("waiting for the thread", counter, all_waiting);
    run = parked_.stub().run(program);
  }
  auto own_tid = static_cast<std::uint32_t>(run.result(result));
  begun_[thread.getTid()] = static_cast<pid_t>(own_tid);
  if (own_tid != thread.getTid()) {
    id_changes_.emplace_back(RemotePtr(thread.getClearChildTid()), own_tid);
    for (const HeldLock& lock : locks_[thread.getTid()]) {
      lock_changes_.emplace_back(lock.word, lock.value_for(own_tid));
    }
  }
  for (pid_t tid : kernel::list_threads(parked_.pid())) {
    if (kernel::read_status(tid).ns_pids.back() != static_cast<pid_t>(own_tid)) continue;
    begun_here_[thread.getTid()] = tid;
    tracee::TracedThread traced = tracee::TracedThread::seize(tid, 0);
    traced.interrupt();
    traced.set_signal_mask(~std::uint64_t{0});
    parked_.adopt(std::move(traced), address);
    return;
  }
  throw Error(Code::kGone,
              fmt::format("thread {} of process {} has ended", own_tid, parked_.pid()));
}

// The kernel writes to an area that is registered, which may be unmapped when the thread ends.
void Homecoming::release_rseq() {
  for (const HomeThread& home : home_threads_) {
    if (stays_the_same(home)) continue;
    std::optional<tracee::TracedThread::RseqArea> area = home.thread->rseq();
    if (!area) continue;
    SyscallProgram back;
    back.undo(SYS_rseq, {area->address, area->size, 0, area->signature});
    parked_.set_undo(home.tid, back);
    released_rseq_.emplace_back(home, *area);
    SyscallProgram release;
    add_rseq(*area, kernel::kRseqFlagUnregister, release);
    tracee::Stub guest(*home.thread, parked_.stub());
    guest.run(release);
    guest.remove();
  }
}

void Homecoming::retake_rseq() {
  for (const auto& [home, area] : released_rseq_) {
    SyscallProgram back;
    back.call_any("registering rseq", SYS_rseq, {area.address, area.size, 0, area.signature});
    tracee::Stub guest(*home.thread, parked_.stub());
    guest.run(back);
    guest.remove();
    parked_.set_undo(home.tid, SyscallProgram());
  }
  released_rseq_.clear();
}

namespace {

// The kernel writes it: where it may not be written nothing happens.
void add_owner(RemotePtr word, std::uint32_t value, pid_t own_pid, SyscallProgram& program) {
  tracee::Data from = program.object(iovec{nullptr, sizeof(value)});
  program.point(from, program.object(value));
  tracee::Data to = program.object(iovec{reinterpret_cast<void*>(word.value()), sizeof(value)});
  program.call_any("telling a lock its owner's id", SYS_process_vm_writev,
                   {own_pid, from, 1, to, 1, 0});
}

}  // namespace

// Into the thread control blocks of those that could not have their ids, and the robust locks that
// they hold.
void Homecoming::add_thread_ids(SyscallProgram& program) const {
  for (const auto& [address, tid] : id_changes_) {
    program.copy("telling a thread its id", address, program.object(tid), sizeof(tid));
  }
  for (const auto& [word, value] : lock_changes_) {
    add_owner(word, value, static_cast<pid_t>(parked_.stub().own_pid()), program);
  }
}

pid_t Homecoming::own_tid_of(std::uint32_t tid) const {
  auto begun = begun_.find(tid);
  return begun == begun_.end() ? static_cast<pid_t>(tid) : begun->second;
}

void Homecoming::set_futures() {
  auto own_pid = static_cast<pid_t>(parked_.stub().own_pid());
  for (const image::Record& record : threads_) {
    auto thread = record.get<Thread>();
    const HomeThread* home = home_thread(thread.getTid());
    const tracee::ThreadState state = decode_thread_state(thread);
    SyscallProgram steps;
    tracee::add_xstate_room(state.xstate, steps);
    if (home == nullptr) {
      add_registrations(thread, steps);
    } else if (is_another(*home, thread)) {
      steps.call("forgetting the robust list", SYS_set_robust_list, {0, kRobustListHead});
      add_registrations(thread, steps);
    } else if (auto area = home->thread->rseq()) {
      // What lies in the area was written there: registering it makes it this machine's.
      add_rseq(*area, kernel::kRseqFlagUnregister, steps);
      add_rseq(*area, 0, steps);
    }
    add_thread_settings(thread, steps);
    add_pending(thread.getPending(), own_pid, own_tid_of(thread.getTid()), steps);
    pid_t tid = home == nullptr ? begun_here_.at(thread.getTid()) : home->tid;
    parked_.set_future(tid, state, steps);
  }
  for (const HomeThread& home : home_threads_) {
    if (lives_on(home)) continue;
    SyscallProgram steps;
    steps.call("forgetting clear_child_tid", SYS_set_tid_address, {0});
    steps.call("forgetting the robust list", SYS_set_robust_list, {0, kRobustListHead});
    parked_.set_end(home.tid, steps);
  }
}

bool Homecoming::is_same_timer(const kernel::PosixTimer& here, PosixTimer::Reader there) const {
  bool to_thread = there.getTid() != 0;
  const HomeThread* target = to_thread ? home_thread(there.getTid()) : nullptr;
  return static_cast<std::uint32_t>(here.id) == there.getId() &&
         here.clock_id == there.getClock() && here.to_thread == to_thread &&
         static_cast<std::uint32_t>(here.signal) == there.getSignal() &&
         here.value == there.getValue() && (!to_thread || (target && target->tid == here.target));
}

// Which are to go and which to be made; the others are only armed.
void Homecoming::plan_timers() {
  std::vector<kernel::PosixTimer> here = kernel::read_timers(parked_.pid());
  std::set<std::uint32_t> same;
  for (PosixTimer::Reader timer : timers_->get<image::schema::Timers>().getPosix()) {
    auto found = std::find_if(here.begin(), here.end(), [&](const kernel::PosixTimer& known) {
      return is_same_timer(known, timer);
    });
    if (found == here.end()) {
      new_timers_.insert(timer.getId());
    } else {
      same.insert(timer.getId());
    }
  }
  for (const kernel::PosixTimer& timer : here) {
    if (same.count(static_cast<std::uint32_t>(timer.id)) == 0) old_timers_.push_back(timer.id);
  }
  if (new_timers_.empty()) return;
  SyscallProgram program;
  program.call("asking for timers by their ids", SYS_prctl,
               {kernel::kPrTimerCreateRestoreIds, kernel::kPrTimerCreateRestoreIdsGet, 0, 0, 0});
  if (parked_.stub().try_run(program).failed() != tracee::kStubDone) {
    throw Error(Code::kUnsupported,
                fmt::format("timer {} was made there, and cannot get its number before Linux 6.15",
                            *new_timers_.begin()));
  }
  make_timers();
}

namespace {

void add_timers_by_id(bool on, SyscallProgram& program) {
  program.call(
      "asking for timers by their ids", SYS_prctl,
      {kernel::kPrTimerCreateRestoreIds,
       on ? kernel::kPrTimerCreateRestoreIdsOn : kernel::kPrTimerCreateRestoreIdsOff, 0, 0, 0});
}

}  // namespace

// Those whose number is free, disarmed. The others only when the old ones are gone: they are of the
// same kind, but for whom they tell.
void Homecoming::make_timers() {
  std::set<std::uint32_t> made;
  SyscallProgram program;
  add_timers_by_id(true, program);
  reverse_by(SYS_prctl,
             {kernel::kPrTimerCreateRestoreIds, kernel::kPrTimerCreateRestoreIdsOff, 0, 0, 0});
  for (PosixTimer::Reader timer : timers_->get<image::schema::Timers>().getPosix()) {
    auto id = static_cast<int>(timer.getId());
    if (new_timers_.count(timer.getId()) == 0) continue;
    if (std::find(old_timers_.begin(), old_timers_.end(), id) != old_timers_.end()) continue;
    reverse_by(SYS_timer_delete, {id});
    add_making(timer, program);
    made.insert(timer.getId());
  }
  add_timers_by_id(false, program);
  tell_reversal();
  run(program);
  for (std::uint32_t id : made) new_timers_.erase(id);
}

void Homecoming::add_making(PosixTimer::Reader timer, SyscallProgram& program) const {
  sigevent event = event_of(timer);
  if (timer.getTid() != 0) event._sigev_un._tid = own_tid_of(timer.getTid());
  program.call(timer_name(timer), SYS_timer_create,
               {clock_at_home(timer.getClock()), program.object(event),
                program.object(static_cast<int>(timer.getId()))});
}

// The clock of a thread's processor time has its id within: MAKE_THREAD_CPUCLOCK in
// include/linux/posix-timers.h.
int Homecoming::clock_at_home(int clock) const {
  constexpr int kOfThread = 4;
  constexpr int kKind = 7;
  constexpr int kOfFile = 3;
  if (clock >= 0 || (clock & kOfThread) == 0 || (clock & kKind) == kOfFile) return clock;
  auto tid = static_cast<std::uint32_t>(~(clock >> 3));
  return static_cast<int>(~static_cast<unsigned>(own_tid_of(tid)) << 3) | (clock & kKind);
}

// They are queued when it cannot be taken back any more. Of a signal that is no real-time one only
// the siginfo needs room (kernel/signal.c, __send_signal_locked).
void Homecoming::check_room_for_signals() const {
  std::uint64_t coming = 0;
  auto count = [&coming](int signal) { coming += signal >= kFirstRealTime ? 1 : 0; };
  auto count_all = [&](::capnp::List<::capnp::Data>::Reader pending) {
    for (::capnp::Data::Reader bytes : pending) count(decode_siginfo(bytes).si_signo);
  };
  for (const siginfo_t& info : undelivered_) count(info.si_signo);
  count_all(signals_->get<image::schema::Signals>().getPending());
  for (const image::Record& thread : threads_) count_all(thread.get<Thread>().getPending());
  if (coming == 0) return;
  kernel::Status here = kernel::read_status(parked_.pid());
  if (here.queued_signals + coming <= here.most_signals) return;
  throw Error(
      Code::kResources,
      fmt::format("{} signals are pending for it, and its user may have {} more here "
                  "(limit sigpending)",
                  coming, here.most_signals - std::min(here.most_signals, here.queued_signals)));
}

void Homecoming::add_timers(SyscallProgram& program) const {
  auto timers = timers_->get<image::schema::Timers>();
  for (int id : old_timers_) {
    program.call("deleting a timer", SYS_timer_delete, {id});
  }
  if (!new_timers_.empty()) add_timers_by_id(true, program);
  for (PosixTimer::Reader timer : timers.getPosix()) {
    if (new_timers_.count(timer.getId()) != 0) add_making(timer, program);
  }
  if (!new_timers_.empty()) add_timers_by_id(false, program);
  for (PosixTimer::Reader timer : timers.getPosix()) add_arming(timer, program);
  for (image::schema::IntervalTimer::Reader timer : timers.getIntervals()) {
    if (timer.getValue() != 0) add_arming(timer, program);
  }
}

}  // namespace telefork::restore
