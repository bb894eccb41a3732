#include "tracee/parked_process.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>

#include <fmt/format.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "tracee/memory.h"
#include "tracee/pending_signals.h"

namespace telefork::tracee {
namespace {

constexpr std::uint64_t kLowest = 64 * 1024;    // vm.mmap_min_addr
constexpr std::uint64_t kOverhead = 64 * 1024;  // of the stub itself
constexpr std::uint64_t kEverySignal = ~std::uint64_t{0};

timespec to_timespec(std::chrono::nanoseconds time) {
  auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  return {seconds.count(), (time - seconds).count()};
}

// Programs let the kernel choose, which maps from the top downwards. Next to nothing, so that the
// kernel makes it one with nothing.
RemotePtr find_lowest_gap(const std::vector<kernel::Vma>& map, std::uint64_t size) {
  RemotePtr candidate(std::max(kLowest, round_up(kernel::read_mmap_min_addr(), kPageSize)));
  for (const kernel::Vma& vma : map) {
    if (vma.start >= candidate + size + kPageSize) break;
    candidate = std::max(candidate, vma.end + kPageSize);
  }
  return candidate;
}

}  // namespace

bool was_killed(pid_t pid) {
  siginfo_t change{};
  constexpr int kOnly = WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL;
  if (::waitid(P_PID, static_cast<id_t>(pid), &change, kOnly) != 0 || change.si_pid == 0) {
    return false;
  }
  bool stopped = change.si_code == CLD_STOPPED || change.si_code == CLD_TRAPPED;
  return !stopped || change.si_status >> 8 == PTRACE_EVENT_EXIT;
}

ParkedProcess::ParkedProcess(FrozenProcess frozen, const Options& options)
    : frozen_(std::move(frozen)), options_(options) {
  // So that whoever looks at the leader alone sees that it is killed.
  frozen_.leader().set_options(PTRACE_O_TRACEEXIT);
  TracedThread& caller = thread(options.caller);
  ThreadState like_the_others;
  like_the_others.xstate = caller.xstate();
  const std::uint64_t per_thread = Stub::guest_size(like_the_others);
  Stub::Options stub;
  stub.data_size = options.data_size + frozen_.threads().size() * per_thread;
  stub.awaited_signals = options.awaited_signals;
  stub.address = find_lowest_gap(frozen_.map(), stub.data_size + kOverhead);
  stub.place = [pid = pid()](std::uint64_t size) {
    return find_lowest_gap(kernel::read_maps(pid), size);
  };
  stub.map = &frozen_.map();
  stub_ = std::make_unique<Stub>(caller, pid(), stub);
  caller_.tid = options.caller;
  caller_.state = &stub_->original();
  gate_ = stub_->allocate(sizeof(std::uint32_t));
  write_object<std::uint32_t>(pid(), gate_, 1);
}

ParkedProcess::~ParkedProcess() {
  if (released_) return;
  try {
    roll_back({});
  } catch (const Error& error) {
    // It has ended, or is beyond help.
    forget();
    adopted_.clear();
    if (error.code() == Code::kGone) frozen_.await_end();
  }
}

void ParkedProcess::forget() {
  released_ = true;
  if (guests_) guests_->abandon();
  stub_->abandon();
}

GuestStubs& ParkedProcess::guests() {
  if (guests_) return *guests_;
  std::vector<TracedThread*> others;
  for (TracedThread& thread : frozen_.threads()) {
    if (thread.tid() != caller()) others.push_back(&thread);
  }
  guests_ = std::make_unique<GuestStubs>(others, *stub_, gate_);
  return *guests_;
}

TracedThread& ParkedProcess::thread(pid_t tid) {
  for (std::vector<TracedThread>* list : {&frozen_.threads(), &adopted_}) {
    for (TracedThread& thread : *list) {
      if (thread.tid() == tid) return thread;
    }
  }
  throw Error(Code::kGone, fmt::format("thread {} of process {} has ended", tid, pid()));
}

ParkedProcess::Parked& ParkedProcess::parked(pid_t tid) {
  if (tid == caller_.tid) return caller_;
  auto found = std::find_if(parked_.begin(), parked_.end(),
                            [tid](const Parked& parked) { return parked.tid == tid; });
  TELEFORK_ASSERT(found != parked_.end());
  return *found;
}

const ThreadState& ParkedProcess::state_of(pid_t tid) { return *parked(tid).state; }

RemotePtr ParkedProcess::write_frame(const ThreadState& state) {
  Registers settled = settle_system_call(state.registers);
  std::size_t size = build_signal_frame(settled, state.xstate, 0, 0).size();
  RemotePtr at = stub_->allocate(size);
  std::vector<std::uint8_t> frame =
      build_signal_frame(settled, state.xstate, state.signal_mask, at.value());
  write_memory(pid(), at, std::as_bytes(std::span(frame)));
  return at + kSignalFrameStackOffset;
}

// One that is armed may expire before they are saved.
void ParkedProcess::look_for_timers() {
  save_timers();
  has_no_timers_ = std::none_of(timers_.begin(), timers_.end(), [this](const Timer& timer) {
    if (timer.posix) return true;
    timeval left = read_object<itimerval>(pid(), timer.value).it_value;
    return left.tv_sec != 0 || left.tv_usec != 0;
  });
  timers_.clear();
}

// What they have left is in the stub's pages before they are stopped.
void ParkedProcess::save_timers() {
  auto add = [this](int number, bool posix) {
    timers_.push_back({number, posix, stub_->allocate(sizeof(itimerspec))});
  };
  for (int which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) add(which, false);
  for (const kernel::PosixTimer& timer : kernel::read_timers(pid())) add(timer.id, true);
  SyscallProgram program;
  for (const Timer& timer : timers_) {
    program.call("asking for a timer", timer.posix ? SYS_timer_gettime : SYS_getitimer,
                 {timer.number, timer.value});
  }
  stub_->run(program);
}

void ParkedProcess::add_rearming(SyscallProgram& program, bool undo) const {
  for (const Timer& timer : timers_) {
    if (timer.posix && undo) program.undo(SYS_timer_settime, {timer.number, 0, timer.value, 0});
    if (!timer.posix && undo) program.undo(SYS_setitimer, {timer.number, timer.value, 0});
    if (undo) continue;
    if (timer.posix) {
      program.call("arming a timer", SYS_timer_settime, {timer.number, 0, timer.value, 0});
    } else {
      program.call("arming an interval timer", SYS_setitimer, {timer.number, timer.value, 0});
    }
  }
}

// With these registers it goes to the gate when it goes on.
void ParkedProcess::set_stub_entry(TracedThread& thread, const Parked& parked, RemotePtr stack) {
  Registers registers = parked.state->registers;
  forget_system_call(registers);
  set_instruction_pointer(registers, stub_->entry_address().value());
  set_stack_pointer(registers, stack.value());
  set_stub_program(registers, parked.program.value());
  thread.set_signal_mask(kEverySignal);
  thread.set_registers(registers);
}

void ParkedProcess::set_lease(std::chrono::nanoseconds lease) {
  write_object(pid(), lease_, to_timespec(lease));
}

// In this order: until the last call nobody waits longer than for the gate, which is opened at
// once; and each thread has a way back before it is changed.
void ParkedProcess::hold_for(std::chrono::nanoseconds lease) {
  TELEFORK_ASSERT(!held());
  if (!has_no_timers_) save_timers();
  lease_ = stub_->allocate(sizeof(timespec));
  set_lease({});
  note_parked();
  SyscallProgram farewell;
  farewell.undo(SYS_clock_nanosleep, {CLOCK_MONOTONIC, 0, lease_, 0});
  add_rearming(farewell, true);
  farewell.undo(kOpAdd, {gate_, 1});
  farewell_ = std::move(farewell);
  stub_->set_farewell(farewell_);
  write_object<std::uint32_t>(pid(), gate_, 0);
  held_ = true;

  SyscallProgram disarm;
  Data zero = disarm.object(itimerspec{});
  for (const Timer& timer : timers_) {
    if (timer.posix) {
      disarm.call("stopping a timer", SYS_timer_settime, {timer.number, 0, zero, timer.value});
    } else {
      disarm.call("stopping an interval timer", SYS_setitimer, {timer.number, zero, timer.value});
    }
  }
  if (!timers_.empty()) stub_->run(disarm);
  set_lease(lease);
}

// Where each leaves its stub it comes to the gate. What is sent to the process is the caller's.
void ParkedProcess::note_parked() {
  GuestStubs& all = guests();
  all.enter();
  std::size_t index = 0;
  for (TracedThread& thread : frozen_.threads()) {
    if (thread.tid() == caller()) continue;
    const Stub& guest = all[index++];
    thread.set_signal_mask(kEverySignal);
    Parked parked;
    parked.tid = thread.tid();
    parked.program = guest.idle_program();
    parked.state = &guest.original();
    parked_.push_back(std::move(parked));
  }
}

HeldProcess ParkedProcess::held_process() const {
  TELEFORK_ASSERT(held());
  return {kernel::identify(pid()), caller_.tid, gate_, lease_};
}

void ParkedProcess::leave_held() {
  TELEFORK_ASSERT(held() && !waiting_);
  // Its stubs could do nothing more.
  const bool dispatched =
      std::any_of(frozen_.threads().begin(), frozen_.threads().end(),
                  [](const TracedThread& thread) { return thread.holds_dispatch(); });
  if (dispatched) ::kill(pid(), SIGKILL);
  forget();
  frozen_.thaw(caller());
}

void ParkedProcess::set_undo(const SyscallProgram& steps) {
  SyscallProgram farewell = steps;
  farewell.append_undo(farewell_);
  stub_->set_farewell(farewell);
}

// As for the caller: what it does behind the gate if nothing else is decided.
void ParkedProcess::set_undo(pid_t tid, const SyscallProgram& steps) {
  TELEFORK_ASSERT(tid != caller_.tid);
  const Parked& own = parked(tid);
  auto header = read_object<StubProgram>(pid(), own.program);
  RemotePtr at = stub_->allocate(steps.loaded_size());
  std::vector<std::byte> bytes = steps.encode(at, header);
  write_memory(pid(), at, bytes);
  StubProgram encoded;
  std::memcpy(&encoded, bytes.data(), sizeof(encoded));
  write_object(pid(), own.program, encoded);
}

void ParkedProcess::begin_waiting() {
  TELEFORK_ASSERT(held() && !waiting_);
  if (!wait_program_) {
    Data set = wait_.object(kEverySignal);
    Data timeout = wait_.object(to_timespec(options_.wait));
    wait_info_ = wait_.buffer(sizeof(siginfo_t));
    wait_result_ = wait_.call_any("waiting for a signal", SYS_rt_sigtimedwait,
                                  {set, wait_info_, timeout, sizeof(std::uint64_t)});
    wait_.undo(SYS_rt_sigqueueinfo, {stub_->own_pid(), wait_result_, wait_info_});
    wait_program_ = stub_->allocate_for(wait_);
  }
  stub_->start(wait_, wait_program_);
  waiting_ = true;
}

std::optional<siginfo_t> ParkedProcess::take_result() {
  waiting_ = false;
  ProgramRun run = stub_->results();
  if (run.result(wait_result_) <= 0) return std::nullopt;
  return run.object<siginfo_t>(wait_info_);
}

std::optional<ParkedProcess::Event> ParkedProcess::poll() {
  while (waiting_) {
    Stub::Progress progress = stub_->poll();
    switch (progress.kind) {
      case Stub::Progress::Kind::kRunning:
        return std::nullopt;
      case Stub::Progress::Kind::kStopped: {
        join_group_stop();
        Event event{Event::Kind::kStopped};
        event.info.si_signo = progress.signal;
        return event;
      }
      case Stub::Progress::Kind::kContinued:
        return Event{Event::Kind::kContinued};
      case Stub::Progress::Kind::kEnded:
        if (std::optional<siginfo_t> info = take_result())
          return Event{Event::Kind::kSignal, *info};
        begin_waiting();
    }
  }
  return std::nullopt;
}

// The stop is complete, and told to the parent, when every thread has taken part in it.
void ParkedProcess::join_group_stop() {
  for (TracedThread& thread : frozen_.threads()) {
    if (thread.tid() == caller()) continue;
    thread.request_stop();
    thread.resume(PTRACE_CONT);
    thread.await_stop();
  }
}

std::optional<siginfo_t> ParkedProcess::end_waiting() {
  if (!waiting_) return std::nullopt;
  stub_->interrupt_program();
  return take_result();
}

void ParkedProcess::roll_back(std::span<const siginfo_t> undelivered) {
  std::optional<siginfo_t> last = end_waiting();
  dismiss_adopted();
  if (held()) {
    set_lease({});
    SyscallProgram program;
    add_rearming(program, false);
    std::vector<siginfo_t> signals(undelivered.begin(), undelivered.end());
    if (last) signals.push_back(*last);
    add_queueing_ahead(signals, *stub_, program);
    stub_->run(program);
  }
  parked_.clear();
  if (guests_) guests_->remove();
  stub_->remove();
  released_ = true;
  frozen_.thaw(caller());
}

void ParkedProcess::adopt(TracedThread thread, RemotePtr program) {
  Parked parked;
  parked.tid = thread.tid();
  parked.program = program;
  parked.own = std::make_unique<ThreadState>(read_thread_state(thread));
  parked.state = parked.own.get();
  parked_.push_back(std::move(parked));
  adopted_.push_back(std::move(thread));
  frozen_.expect_more_threads();
}

// Their StubPrograms say that they end behind the gate; without one they do so at once.
void ParkedProcess::dismiss_adopted() {
  for (TracedThread& thread : adopted_) {
    pid_t tid = thread.tid();
    const Parked& own = parked(tid);
    write_object<std::uint64_t>(pid(), own.program + offsetof(StubProgram, gate), 0);
    set_stub_entry(thread, own, RemotePtr(stack_pointer(own.state->registers)));
    bool left = leave_stub(thread, parked(tid).state->registers);
    TELEFORK_ASSERT(!left);
    std::erase_if(parked_, [tid](const Parked& parked) { return parked.tid == tid; });
  }
  adopted_.clear();
}

void ParkedProcess::set_future(pid_t tid, const ThreadState& state, const SyscallProgram& steps) {
  Parked& own = parked(tid);
  SyscallProgram program = steps;
  if (tid == caller_.tid) program.add_and_wake("opening the gate", gate_, 1);
  program = program.as_undo();
  StubProgram header{};
  header.gate = gate_.value();
  header.hold = gate_.value();
  header.frame = write_frame(state).value();
  own.future_registers = state.registers;
  own.future = stub_->allocate_for(program);
  write_memory(pid(), own.future, program.encode(own.future, header));
}

void ParkedProcess::set_end(pid_t tid, const SyscallProgram& steps) {
  TELEFORK_ASSERT(tid != caller_.tid);
  SyscallProgram program = steps;
  program.call("ending", SYS_exit, {0});
  set_future(tid, *parked(tid).state, program);
}

void ParkedProcess::forget_futures() {
  caller_.future = RemotePtr();
  for (Parked& parked : parked_) parked.future = RemotePtr();
}

void ParkedProcess::commit(SyscallProgram program) {
  TELEFORK_ASSERT(held() && !waiting_ && caller_.future);
  constexpr int kMixture = 125;
  program.undo(SYS_exit_group, {kMixture});
  for (const Parked& parked : parked_) {
    TELEFORK_ASSERT(parked.future);
    program.copy("giving a thread its future", parked.program, parked.future, sizeof(StubProgram));
  }
  constexpr std::size_t kCallersSteps = 2;
  RemotePtr own = stub_->next_program(program.loaded_size() + kPageSize +
                                      (parked_.size() + kCallersSteps) * sizeof(StubStep));
  for (auto [offset, size] :
       {std::pair(offsetof(StubProgram, steps), offsetof(StubProgram, failed)),
        std::pair(offsetof(StubProgram, frame), sizeof(std::uint64_t))}) {
    program.copy("giving the caller its future", own + offset, caller_.future + offset, size);
  }
  try {
    stub_->try_run_last(program).check(program);
  } catch (Error& error) {
    error.add_context(fmt::format("process {} was killed, half changed", pid()));
    if (error.code() != Code::kGone && options_.last_words) options_.last_words(error);
    forget();
    ::kill(pid(), SIGKILL);
    adopted_.clear();
    frozen_.await_end();
    throw;
  }
  leave();
}

void ParkedProcess::end(int status) {
  SyscallProgram program;
  program.call("ending the process", SYS_exit_group, {status});
  stub_->start(program, stub_->allocate_for(program));
  forget();
  // At the entry of that call; what it does from there on it does for all threads.
  TracedThread& leaving = stub_->thread();
  if (!leaving.wait().ended()) leaving.resume(PTRACE_CONT);
  adopted_.clear();
  frozen_.await_end();
}

TracedThread& ParkedProcess::become(const SyscallProgram& program) {
  TracedThread& leader = frozen_.leader();
  TELEFORK_ASSERT(held() && !waiting_ && leader.tid() == caller_.tid);
  leader.set_options(PTRACE_O_TRACEEXEC);
  std::optional<ProgramRun> failed;
  auto reap_others = [this] {
    for (TracedThread& thread : frozen_.threads()) {
      if (thread.tid() == caller_.tid || !thread.attached()) continue;
      std::optional<WaitStatus> status = thread.try_wait();
      if (status && status->ended()) thread.forget();
    }
  };
  if (!stub_->run_to_exec(program, &failed, reap_others)) {
    leader.set_options(PTRACE_O_TRACEEXIT);
    failed->check(program);
    throw Error(Code::kFailed, "the other program did not start");
  }
  forget();
  leader.set_options(0);
  return leader;
}

// The caller opens the gate. When all are out of the stub its pages go.
void ParkedProcess::leave() {
  released_ = true;
  if (guests_) guests_->abandon();
  stub_->leave(caller_.future_registers);
  for (std::vector<TracedThread>* list : {&frozen_.threads(), &adopted_}) {
    for (TracedThread& thread : *list) {
      if (thread.tid() == caller_.tid) continue;
      leave_stub(thread, parked(thread.tid()).future_registers);
    }
  }
  parked_.clear();
  try {
    stub_->remove();
  } catch (const Error& error) {
    // It is what it was to become. Without room on its stack it stays some kilobytes larger.
    if (error.code() != Code::kRefused) throw;
  }
  adopted_.clear();
  frozen_.thaw(caller());
}

}  // namespace telefork::tracee
