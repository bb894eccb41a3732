#include "tracee/stub.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "tracee/change_wait.h"
#include "tracee/memory.h"
#include "tracee/sigreturn_finder.h"

namespace telefork::tracee {
namespace {

constexpr std::uint64_t kFrameAlignment = 64;
constexpr std::uint64_t kFrameOffset = 128;  // of the frame behind the idle program
constexpr std::uint64_t kStackSize = 4096;
// A handler may run on it, if the tracer dies while the thread is given its own mask back. Its top
// is on the page of the idle program.
constexpr std::uint64_t kGuestStack = 2 * kPageSize + 512;
constexpr std::uint64_t kLeastRoom = 1024 * 1024;  // untouched pages cost nothing
constexpr std::uint64_t kAllSignals = ~std::uint64_t{0};

std::uint64_t bit_of(int signal) { return std::uint64_t{1} << (signal - 1); }

std::span<const std::byte> as_bytes(const std::vector<std::uint8_t>& bytes) {
  return std::as_bytes(std::span(bytes));
}

// The idle program and the frame, in whole pages, and the stack.
std::uint64_t exit_size(std::size_t frame_size) {
  return round_up(frame_size + kFrameOffset, kPageSize) + kStackSize;
}

// Until its next stop; `look` is called before each look at the thread.
WaitStatus resume_and_look(TracedThread& thread, int request, int signal,
                           const std::function<void()>& look) {
  ChangeWait changes;
  thread.resume(request, signal);
  for (;;) {
    look();
    if (std::optional<WaitStatus> status = thread.try_wait()) return *status;
    changes.await();
  }
}

void prepare_to_enter(TracedThread& thread, const ThreadState& state) {
  if (!is_native_code(state.registers)) {
    throw Error(Code::kRefused, fmt::format("thread {} runs 32-bit code", thread.tid()));
  }
  // The stub's own would be signals to the program.
  thread.hold_dispatch();
}

}  // namespace

ThreadState read_thread_state(const TracedThread& thread) {
  ThreadState state{thread.registers(), thread.xstate(), thread.signal_mask()};
  const std::uint64_t at = instruction_pointer(state.registers);
  if (is_restarted_call(state.registers)) {
    std::array<std::byte, kSystemCallCode> code{};
    if (try_read_memory(thread.tid(), RemotePtr(at - code.size()), code) == code.size()) {
      name_restarted_call(code, state.registers);
    }
  }
  if (is_nap_with_rest(state.registers)) {
    std::array<std::byte, kCodeBehindNap> code{};
    if (try_read_memory(thread.tid(), RemotePtr(at), code) == code.size()) {
      nap_from_rest(code, state.registers);
    }
  }
  return state;
}

namespace {

// It leaves by rt_sigreturn, which no other code of the stub makes.
bool leave_by_frame(TracedThread& thread) {
  for (bool leaving = false;;) {
    WaitStatus status = thread.resume_until_stop(PTRACE_SYSCALL);
    if (status.ended()) return false;
    if (status.kind() != WaitStatus::Kind::kSyscallStop) continue;
    if (thread.at_system_call_entry()) {
      leaving = interrupted_system_call(thread.registers()) == SYS_rt_sigreturn;
    } else if (leaving) {
      return true;
    }
  }
}

// Only at an event stop does the kernel look at the registers of an interrupted call again: from
// another stop, without an instruction of the program.
bool stop_at_event(TracedThread& thread) {
  thread.request_stop();
  WaitStatus status = thread.resume_until_stop(PTRACE_CONT);
  while (status.kind() != WaitStatus::Kind::kEventStop &&
         status.kind() != WaitStatus::Kind::kGroupStop) {
    if (status.ended()) return false;
    status = thread.resume_until_stop(PTRACE_CONT);
  }
  return true;
}

}  // namespace

bool leave_stub(TracedThread& thread, const Registers& as) {
  if (!leave_by_frame(thread)) return false;
  if (is_interrupted_call(as)) {
    if (!stop_at_event(thread)) return false;
    thread.set_registers(as);
  }
  thread.release_dispatch();
  return true;
}

Stub::Stub(TracedThread& thread, pid_t pid, const Options& options)
    : thread_(thread), pid_(pid), original_(read_thread_state(thread)), place_(options.place) {
  prepare_to_enter(thread, original_);
  choose_stop_signal(options.awaited_signals.value_or(original_.signal_mask));
  sigreturn_ =
      options.map != nullptr ? make_sigreturn_in(pid, *options.map) : make_sigreturn_in(pid);
  enter_safe_state();
  install(options);
}

std::uint32_t Stub::own_tid_of(pid_t tid) const {
  if (!has_other_ids_) return static_cast<std::uint32_t>(tid);
  return static_cast<std::uint32_t>(kernel::read_status(tid).ns_pids.back());
}

std::uint64_t Stub::guest_size(const ThreadState& state) {
  return round_up(kGuestStack + kFrameOffset + signal_frame_size(state.xstate) + kFrameAlignment +
                      kGuestProgramSize,
                  kPageSize);
}

Stub::Stub(TracedThread& thread, Stub& host)
    : thread_(thread),
      pid_(host.pid_),
      original_(read_thread_state(thread)),
      area_(host.area_),
      area_size_(host.area_size_),
      lender_(&host) {
  const std::size_t frame_size = signal_frame_size(original_.xstate);
  RemotePtr at = host.next_program(exit_size(frame_size) + kGuestProgramSize + kPageSize);
  programs_end_ = host.programs_end_;
  prepare_to_enter(thread_, original_);
  choose_stop_signal(original_.signal_mask);
  lay_exit(RemotePtr(round_up(at.value(), kPageSize)), frame_size);
  ScatteredMemory memory;
  add_exit(memory);
  memory.write(pid_);
  set_idle();
  installed_ = true;
}

Stub::Stub(TracedThread& thread, Guest guest, Stub& host, ScatteredMemory& memory)
    : thread_(thread),
      pid_(host.pid_),
      original_(std::move(guest.state)),
      area_(host.area_),
      area_size_(host.area_size_),
      hold_(guest.hold),
      own_pid_(host.own_pid_),
      own_tid_(guest.own_tid),
      has_other_ids_(host.has_other_ids_),
      group_signals_(host.group_signals_),
      lender_(&host) {
  prepare_to_enter(thread_, original_);
  // One that waits for it alone, and is not blocked, would be ignored by what it does by default.
  take_stop_signal(group_signals_ | original_.signal_mask);
  lay_guest_exit(guest.room);
  add_exit(memory);
}

Stub::~Stub() {
  if (!installed_) return;
  try {
    remove();
  } catch (const Error&) {
    // The process has ended, or is beyond help: whoever threw while the stub was in place has
    // said what matters.
  }
}

void Stub::choose_stop_signal(std::uint64_t awaited_signals) {
  kernel::Status status = kernel::read_status(thread_.tid());
  own_pid_ = static_cast<std::uint32_t>(status.ns_tgids.back());
  own_tid_ = static_cast<std::uint32_t>(status.ns_pids.back());
  has_other_ids_ = status.ns_pids.size() > 1;
  group_signals_ = status.caught | status.shared_pending;
  take_stop_signal(group_signals_ | status.thread_pending | awaited_signals);
}

// A signal that nobody listens to: ignored by default, not caught, not awaited and not pending. To
// a process without a tracer it never happens.
void Stub::take_stop_signal(std::uint64_t taken) {
  for (int signal : {SIGURG, SIGWINCH}) {
    if ((taken & bit_of(signal)) == 0) {
      stop_signal_ = signal;
      return;
    }
  }
}

void Stub::enter_safe_state() {
  Registers settled = settle_system_call(original_.registers);
  std::uint64_t top = stack_pointer(original_.registers) - kRedZone;
  std::size_t size = signal_frame_size(original_.xstate);
  stack_frame_ = RemotePtr(round_down(top - size, kFrameAlignment));
  std::vector<std::uint8_t> frame =
      build_signal_frame(settled, original_.xstate, original_.signal_mask, stack_frame_.value());
  stack_bytes_.resize(frame.size());
  thread_.touch(stack_frame_);
  try {
    read_memory(pid_, stack_frame_, stack_bytes_);
    write_memory(pid_, stack_frame_, as_bytes(frame));
  } catch (Error& error) {
    if (error.code() == Code::kGone) throw;
    throw Error(Code::kRefused,
                fmt::format("thread {} has no room for a signal frame on its stack at {:#x}",
                            thread_.tid(), stack_frame_.value()));
  }
  Registers safe = original_.registers;
  forget_system_call(safe);
  set_instruction_pointer(safe, sigreturn_.value());
  set_stack_pointer(safe, (stack_frame_ + kSignalFrameStackOffset).value());
  thread_.set_registers(safe);
  thread_.set_signal_mask(kAllSignals);
}

// A SIGSTOP, which nothing can block, is delivered: its parent sees the stop, a SIGCONT ends it,
// and whatever is left of it when nobody traces the thread any more stops it. Meanwhile the thread
// runs on: PTRACE_CONT leads out of the group stop, and does not end it (ptrace(2), "Group-stop").
WaitStatus Stub::resume_until_stop(int request) { return resume_until_stop(request, {}); }

WaitStatus Stub::resume_until_stop(int request, const std::function<void()>& meanwhile) {
  return note(meanwhile ? resume_and_look(thread_, request, stop_to_deliver_, meanwhile)
                        : thread_.resume_until_stop(request, stop_to_deliver_));
}

WaitStatus Stub::note(WaitStatus status) {
  bool delivery = status.kind() == WaitStatus::Kind::kSignalDelivery;
  stop_to_deliver_ = delivery && status.signal() == SIGSTOP ? SIGSTOP : 0;
  return status;
}

// Until the thread stops at the entry to, or the exit from, a system call.
void Stub::await_system_call_stop(bool entry) {
  for (;;) {
    WaitStatus status = resume_until_stop(PTRACE_SYSCALL);
    if (status.ended()) {
      throw Error(Code::kGone, fmt::format("process {} {}", pid_, status.describe()));
    }
    if (status.kind() == WaitStatus::Kind::kSyscallStop &&
        thread_.at_system_call_entry() == entry) {
      return;
    }
  }
}

// In the safe state, or of a stub that is in place between two programs: makes the thread enter
// what is to be its next system call, and has the kernel do another one in its place. Afterwards
// the thread is where it was.
std::int64_t Stub::borrow_system_call(long number, const std::uint64_t (&arguments)[6]) {
  Registers safe = thread_.registers();
  await_system_call_stop(true);
  Registers call = safe;
  set_system_call(call, number, arguments);
  set_instruction_pointer(call, instruction_pointer(safe));
  thread_.set_registers(call);
  await_system_call_stop(false);
  std::int64_t result = system_call_result(thread_.registers());
  thread_.set_registers(safe);
  return result;
}

void Stub::install(const Options& options) {
  std::size_t frame_size = signal_frame_size(original_.xstate);
  std::uint64_t code_size =
      round_up(static_cast<std::uint64_t>(telefork_stub_end - telefork_stub_begin), kPageSize);
  area_size_ = round_up(code_size + exit_size(frame_size) + options.data_size, kPageSize);
  std::uint64_t flags = MAP_PRIVATE | MAP_ANONYMOUS | (options.address ? MAP_FIXED_NOREPLACE : 0);
  std::int64_t mapped =
      borrow_system_call(SYS_mmap, {options.address.value(), area_size_, PROT_READ | PROT_WRITE,
                                    flags, static_cast<std::uint64_t>(-1), 0});
  if (mapped < 0 && mapped >= -4095) {
    leave_stack();
    throw_errno(fmt::format("mapping the stub in process {}", pid_), static_cast<int>(-mapped));
  }
  area_ = RemotePtr(static_cast<std::uint64_t>(mapped));
  programs_end_ = area_ + area_size_;
  installed_ = true;

  write_memory(pid_, area_, std::as_bytes(std::span(telefork_stub_begin, telefork_stub_end)));
  lay_exit(area_ + code_size, frame_size);
  ScatteredMemory memory;
  add_exit(memory);
  memory.write(pid_);
  std::int64_t protect =
      borrow_system_call(SYS_mprotect, {area_.value(), code_size, PROT_READ | PROT_EXEC, 0, 0, 0});
  if (protect == -EACCES) protect = map_code(code_size);
  if (protect < 0) {
    // Nobody else takes it out again: who throws here has no destructor.
    borrow_system_call(SYS_munmap, {area_.value(), area_size_, 0, 0, 0, 0});
    installed_ = false;
    leave_stack();
    if (protect == -EACCES) {
      throw Error(
          Code::kRefused,
          fmt::format("process {} may not have memory of its own that is executable (a rule of "
                      "this machine's); start it without that",
                      pid_));
    }
    throw_errno("making the stub executable", static_cast<int>(-protect));
  }
  set_idle();
  write_memory(pid_, stack_frame_, stack_bytes_);
}

// Where memory may not become executable (PR_SET_MDWE) it may be so from the beginning, and a
// tracer may write what the process may not.
std::int64_t Stub::map_code(std::uint64_t size) {
  const std::int64_t mapped = borrow_system_call(
      SYS_mmap, {area_.value(), size, PROT_READ | PROT_EXEC,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, static_cast<std::uint64_t>(-1), 0});
  if (mapped < 0 && mapped >= -4095) return mapped;
  return try_write_as_tracer(pid_, area_,
                             std::as_bytes(std::span(telefork_stub_begin, telefork_stub_end)))
             ? 0
             : -EACCES;
}

// The idle program and the frame that it leaves through, then the stack, then room for programs.
void Stub::lay_exit(RemotePtr at, std::size_t frame_size) {
  idle_program_ = own_idle_program_ = at;
  frame_ = at + kFrameOffset;
  stack_top_ = at + exit_size(frame_size);
  programs_ = stack_top_;
  TELEFORK_ASSERT(programs_ < programs_end_);
}

// The stack first, so that what is written and what is used of it are few pages.
void Stub::lay_guest_exit(Room room) {
  stack_top_ = room.address + kGuestStack;
  idle_program_ = own_idle_program_ = stack_top_;
  frame_ = idle_program_ + kFrameOffset;
  const std::uint64_t end = frame_.value() + signal_frame_size(original_.xstate);
  programs_ = RemotePtr(round_up(end, kFrameAlignment));
  programs_end_ = room.address + room.size;
}

void Stub::add_exit(ScatteredMemory& memory) const {
  static_assert(sizeof(StubProgram) <= kFrameOffset && kFrameOffset % kFrameAlignment == 0);
  memory.add_object(idle_program_, header());
  const std::vector<std::uint8_t> frame =
      build_signal_frame(settle_system_call(original_.registers), original_.xstate,
                         original_.signal_mask, frame_.value());
  memory.add(frame_, as_bytes(frame));
}

StubProgram Stub::header() const {
  StubProgram program{};
  program.failed = kStubDone;
  program.stop_signal = static_cast<std::uint32_t>(stop_signal_);
  program.pid = own_pid_;
  program.tid = own_tid_;
  program.frame = (frame_ + kSignalFrameStackOffset).value();
  program.hold = hold_.value();
  return program;
}

// Where a plain resume leaves through the frame.
void Stub::set_idle() {
  Registers idle = original_.registers;
  forget_system_call(idle);
  set_instruction_pointer(idle, stop_address().value());
  set_stack_pointer(idle, stack_top_.value());
  set_stub_program(idle, idle_program_.value());
  thread_.set_registers(idle);
  block_signals();
}

// But for the one by which it makes itself known.
void Stub::block_signals() {
  std::uint64_t open = stop_signal_ == 0 ? 0 : bit_of(stop_signal_);
  thread_.set_signal_mask(kAllSignals & ~open);
}

RemotePtr Stub::entry_address() const { return area_; }

// What is left of the room before it is left unused. Each is twice as large as the one before, so
// that there are few.
void Stub::make_room(std::uint64_t size) {
  std::vector<Room>& rooms = lender_ ? lender_->more_rooms_ : more_rooms_;
  const Place& place = lender_ ? lender_->place_ : place_;
  std::uint64_t least = rooms.empty() ? kLeastRoom : 2 * rooms.back().size;
  size = round_up(std::max(2 * size, least), kPageSize);
  RemotePtr address = place ? place(size) : RemotePtr();
  std::uint64_t flags =
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (place ? MAP_FIXED_NOREPLACE : 0);
  std::int64_t mapped = borrow_system_call(SYS_mmap, {address.value(), size, PROT_READ | PROT_WRITE,
                                                      flags, static_cast<std::uint64_t>(-1), 0});
  if (mapped < 0 && mapped >= -4095) {
    throw_errno(fmt::format("mapping {} bytes for the stub in process {}", size, pid_),
                static_cast<int>(-mapped), Code::kResources);
  }
  rooms.push_back({RemotePtr(static_cast<std::uint64_t>(mapped)), size});
  programs_ = rooms.back().address;
  programs_end_ = programs_ + size;
}

RemotePtr Stub::next_program(std::size_t size) {
  if (size > programs_end_ - programs_) make_room(size);
  return programs_;
}

RemotePtr Stub::allocate(std::size_t size) {
  size = round_up(size, kFrameAlignment);
  RemotePtr address = next_program(size);
  programs_ = address + size;
  return address;
}

std::vector<Stub::Room> Stub::rooms() const {
  std::vector<Room> rooms = {{area_, area_size_}};
  rooms.insert(rooms.end(), more_rooms_.begin(), more_rooms_.end());
  return rooms;
}

bool Stub::owns(const kernel::Vma& vma) const {
  std::vector<Room> all = rooms();
  auto within = [&all](RemotePtr address) {
    return std::any_of(all.begin(), all.end(), [address](const Room& room) {
      return address >= room.address && address < room.address + room.size;
    });
  };
  return within(vma.start) && within(RemotePtr(vma.end.value() - 1));
}

RemotePtr Stub::allocate_for(const SyscallProgram& program) {
  return allocate(with_farewell(program).loaded_size());
}

// The idle program has them too: where it leaves when nothing runs.
void Stub::set_farewell(const SyscallProgram& undo_steps) {
  // make_room() goes through what comes before it twice.
  TELEFORK_ASSERT(!undo_steps.has_undo() || undo_steps.undo_steps().front().number < kOpAdd);
  farewell_ = undo_steps;
  SyscallProgram idle;
  idle.append_undo(farewell_);
  RemotePtr at = allocate(idle.loaded_size());
  write_memory(pid_, at, idle.encode(at, header()));
  idle_program_ = own_idle_program_ = at;
  set_idle();
}

SyscallProgram Stub::with_farewell(const SyscallProgram& program) const {
  SyscallProgram copy = program;
  copy.append_undo(farewell_);
  return copy;
}

void Stub::load(const SyscallProgram& program) {
  RemotePtr at = next_program(program.loaded_size());
  write_memory(pid_, at, program.encode(at, header()));
}

RemotePtr Stub::stop_address() const {
  return area_ + static_cast<std::uint64_t>(telefork_stub_stop - telefork_stub_begin);
}

bool Stub::is_at_stop(const Registers& registers) const {
  return instruction_pointer(registers) == stop_address().value();
}

bool Stub::at_end(const WaitStatus& status) const {
  if (!is_at_stop(thread_.registers())) return false;
  if (stop_signal_ == 0) {
    return status.kind() == WaitStatus::Kind::kSyscallStop &&
           interrupted_system_call(thread_.registers()) == -1;
  }
  return status.kind() == WaitStatus::Kind::kSignalDelivery && status.signal() == stop_signal_;
}

int Stub::request_to_end() const { return stop_signal_ == 0 ? PTRACE_SYSCALL : PTRACE_CONT; }

WaitStatus Stub::resume_to_end(const std::function<void()>& meanwhile) {
  return await_program_end(resume_until_stop(request_to_end(), meanwhile), meanwhile);
}

WaitStatus Stub::await_program_end(WaitStatus status, const std::function<void()>& meanwhile) {
  for (;; status = resume_until_stop(request_to_end(), meanwhile)) {
    if (status.ended()) {
      installed_ = false;
      throw Error(Code::kGone, fmt::format("process {} {}", pid_, status.describe()));
    }
    if (status.kind() == WaitStatus::Kind::kEvent && status.event() == PTRACE_EVENT_EXEC) {
      return status;
    }
    if (at_end(status)) return status;
    if (status.kind() != WaitStatus::Kind::kSignalDelivery) continue;
    // Blocked signals do not come this way; a fault of the stub itself does.
    if (thread_.stop_signal_info().si_code > 0 && status.signal() != SIGSTOP &&
        status.signal() != stop_signal_) {
      std::uint64_t at = instruction_pointer(thread_.registers());
      set_idle();
      throw Error(Code::kFailed,
                  fmt::format("the stub in process {} {} at {:#x}", pid_, status.describe(), at));
    }
  }
}

void Stub::set_to_start(RemotePtr program) {
  Registers start = original_.registers;
  forget_system_call(start);
  set_instruction_pointer(start, area_.value());
  set_stack_pointer(start, stack_top_.value());
  set_stub_program(start, program.value());
  thread_.set_registers(start);
}

ProgramRun Stub::take_results(const SyscallProgram& program, RemotePtr address) const {
  std::vector<std::byte> bytes(program.loaded_size());
  read_memory(pid_, address, bytes);
  return ProgramRun(program, std::move(bytes));
}

ProgramRun Stub::run_loaded(const SyscallProgram& program) {
  load(program);
  if (started_) block_signals();
  started_.reset();
  set_to_start(programs_);
  resume_to_end();
  return take_results(program, programs_);
}

ProgramRun Stub::try_run(const SyscallProgram& program) {
  ProgramRun run = has_farewell() ? run_loaded(with_farewell(program)) : run_loaded(program);
  set_idle();
  return run;
}

void Stub::add_program(const SyscallProgram& program, ScatteredMemory& memory) {
  TELEFORK_ASSERT(program.loaded_size() <= programs_end_ - programs_);
  if (idle_program_ == programs_) {
    idle_program_ = own_idle_program_;
    set_idle();
  }
  memory.add(programs_, program.encode(programs_, header()));
}

void Stub::enter() {
  if (installed_) return;
  installed_ = true;
  set_idle();
}

void Stub::begin() {
  set_to_start(programs_);
  if (!installed_) block_signals();
  installed_ = true;
  thread_.resume(request_to_end(), std::exchange(stop_to_deliver_, 0));
  running_ = true;
}

void Stub::await_begun() {
  running_ = false;
  await_program_end(note(thread_.wait()));
  idle_program_ = programs_;
}

ProgramRun Stub::try_run_last(const SyscallProgram& program) { return run_loaded(program); }

void Stub::start(const SyscallProgram& program, RemotePtr at) {
  started_ = with_farewell(program);
  started_at_ = at;
  StubProgram own = header();
  own.stop_signal = 0;
  write_memory(pid_, at, started_->encode(at, own));
  thread_.set_signal_mask(kAllSignals);
  set_to_start(at);
  thread_.resume(PTRACE_SYSCALL);
}

bool Stub::at_end_of_started(const WaitStatus& status) const {
  return status.kind() == WaitStatus::Kind::kSyscallStop && is_at_stop(thread_.registers()) &&
         interrupted_system_call(thread_.registers()) == -1;
}

// A group that is stopped is left so; its thread listens for the end of it (ptrace(2),
// "PTRACE_LISTEN").
Stub::Progress Stub::answer(const WaitStatus& status) {
  if (status.ended()) {
    installed_ = false;
    throw Error(Code::kGone, fmt::format("process {} {}", pid_, status.describe()));
  }
  if (at_end_of_started(status)) return {Progress::Kind::kEnded};
  bool was_listening = std::exchange(listening_, false);
  if (status.kind() == WaitStatus::Kind::kGroupStop) {
    thread_.listen();
    listening_ = true;
    // Told again where something else has woken it.
    return {was_listening ? Progress::Kind::kRunning : Progress::Kind::kStopped, status.signal()};
  }
  bool stop = status.kind() == WaitStatus::Kind::kSignalDelivery && status.signal() == SIGSTOP;
  thread_.resume(PTRACE_SYSCALL, stop ? SIGSTOP : 0);
  return {was_listening ? Progress::Kind::kContinued : Progress::Kind::kRunning};
}

Stub::Progress Stub::poll() {
  while (std::optional<WaitStatus> status = thread_.try_wait()) {
    Progress progress = answer(*status);
    if (progress.kind != Progress::Kind::kRunning) return progress;
  }
  return {Progress::Kind::kRunning};
}

// The group may be stopped, then or now: the thread leaves that stop without ending it, as with
// every other program.
void Stub::await_end(bool interrupt) {
  if (interrupt || listening_) thread_.request_stop();
  listening_ = false;
  for (;;) {
    WaitStatus status = thread_.wait();
    bool entry = status.kind() == WaitStatus::Kind::kSyscallStop && thread_.at_system_call_entry();
    // An interrupt in front of the system call would not reach it.
    if (interrupt && entry && !at_end_of_started(status)) thread_.request_stop();
    if (status.kind() == WaitStatus::Kind::kGroupStop) {
      thread_.resume(PTRACE_SYSCALL);
    } else if (answer(status).kind == Progress::Kind::kEnded) {
      return;
    }
  }
}

void Stub::leave(const Registers& as) {
  if (!leave_by_frame(thread_)) {
    installed_ = false;
    throw Error(Code::kGone, fmt::format("process {} has ended", pid_));
  }
  original_ = read_thread_state(thread_);
  if (is_interrupted_call(as)) original_.registers = as;
  sigreturn_ = make_sigreturn_in(pid_);  // what is mapped may be another libc
}

ProgramRun Stub::run(const SyscallProgram& program) {
  ProgramRun run = try_run(program);
  run.check(program);
  return run;
}

bool Stub::run_to_exec(const SyscallProgram& program, std::optional<ProgramRun>* failed_run,
                       const std::function<void()>& reap_others) {
  const SyscallProgram whole = has_farewell() ? with_farewell(program) : program;
  load(whole);
  set_to_start(programs_);
  WaitStatus status = resume_to_end(reap_others);
  if (status.kind() == WaitStatus::Kind::kEvent) {
    installed_ = false;
    thread_.forget_dispatch();
    return true;
  }
  failed_run->emplace(take_results(whole, programs_));
  set_idle();
  return false;
}

// From a system call or signal stop to an event stop, without an instruction of the program: only
// there does the kernel look at the registers of an interrupted call again.
void Stub::interrupt_at_stop() {
  if (!removing_) {
    thread_.request_stop();
    thread_.resume(PTRACE_CONT, std::exchange(stop_to_deliver_, 0));
  }
  removing_ = false;
  for (WaitStatus status = note(thread_.wait());; status = resume_until_stop(PTRACE_CONT)) {
    if (status.kind() == WaitStatus::Kind::kEventStop ||
        status.kind() == WaitStatus::Kind::kGroupStop) {
      return;
    }
    if (status.ended()) {
      throw Error(Code::kGone, fmt::format("process {} {}", pid_, status.describe()));
    }
  }
}

// From the safe state: the thread is again what it was. The registers come last: until then it
// would leave through the frame, which has all three.
void Stub::restore_state() {
  interrupt_at_stop();
  thread_.set_signal_mask(original_.signal_mask);
  thread_.set_xstate(original_.xstate);
  thread_.set_registers(original_.registers);
  thread_.release_dispatch();
}

void Stub::begin_to_remove() {
  TELEFORK_ASSERT(lender_);
  if (!installed_) return;
  thread_.request_stop();
  thread_.resume(PTRACE_CONT, std::exchange(stop_to_deliver_, 0));
  removing_ = true;
}

void Stub::leave_stack() {
  restore_state();
  write_memory(pid_, stack_frame_, stack_bytes_);
}

void Stub::remove() {
  if (!installed_) return;
  if (running_) await_begun();
  if (lender_) {
    installed_ = false;
    restore_state();
    return;
  }
  enter_safe_state();
  installed_ = false;
  std::int64_t result = unmap_rooms();
  leave_stack();
  if (result < 0) throw_errno("unmapping the stub", static_cast<int>(-result));
}

// The area last: the system call may be one of its code. The first result that is an error.
std::int64_t Stub::unmap_rooms() {
  std::int64_t first = 0;
  std::vector<Room> all = rooms();
  for (auto room = all.rbegin(); room != all.rend(); ++room) {
    std::int64_t result =
        borrow_system_call(SYS_munmap, {room->address.value(), room->size, 0, 0, 0, 0});
    if (first == 0) first = result;
  }
  return first;
}

void Stub::replace_with(const ThreadState& state) {
  installed_ = false;
  // Any system call instruction of the stub will do: the process dies with its tracer, so nothing
  // has to be able to go on from here.
  std::int64_t offset = find_sigreturn(
      telefork_stub_begin, static_cast<std::size_t>(telefork_stub_end - telefork_stub_begin));
  TELEFORK_ASSERT(offset >= 0);
  sigreturn_ = area_ + static_cast<std::uint64_t>(offset);
  Registers registers = original_.registers;
  forget_system_call(registers);
  set_instruction_pointer(registers, sigreturn_.value());
  thread_.set_registers(registers);
  thread_.set_signal_mask(kAllSignals);
  std::int64_t result = unmap_rooms();
  if (result < 0) throw_errno("unmapping the stub", static_cast<int>(-result));
  interrupt_at_stop();
  thread_.set_xstate(state.xstate);
  thread_.set_registers(state.registers);
  thread_.set_signal_mask(state.signal_mask);
}

}  // namespace telefork::tracee
