#include "tracee/thread.h"

#include <elf.h>
#include <cerrno>
#include <memory>
#include <utility>

#include <fmt/format.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_task.h"

namespace telefork::tracee {
namespace {

constexpr std::size_t kMaxXstate = 64 * 1024;
constexpr std::size_t kMaxPendingSignals = 100'000;

template <class Request>
long call_ptrace(Request request, pid_t tid, std::uint64_t address, void* data, const char* doing) {
  long result =
      ::ptrace(static_cast<__ptrace_request>(request), tid, reinterpret_cast<void*>(address), data);
  if (result == -1 && errno != 0) throw_errno(fmt::format("{} thread {}", doing, tid));
  return result;
}

template <class Request>
long call_ptrace(Request request, pid_t tid, std::uint64_t address, std::uint64_t data,
                 const char* doing) {
  return call_ptrace(request, tid, address, reinterpret_cast<void*>(data), doing);
}

}  // namespace

std::string WaitStatus::describe() const {
  switch (kind()) {
    case Kind::kExited:
      return fmt::format("exited with {}", code());
    case Kind::kKilled:
      return fmt::format("was killed by signal {}", signal());
    case Kind::kSyscallStop:
      return "stopped at a system call";
    case Kind::kEventStop:
      return "was interrupted";
    case Kind::kGroupStop:
      return fmt::format("was stopped by signal {}", signal());
    case Kind::kEvent:
      return ended() ? "was killed or exits" : fmt::format("stopped for event {}", event());
    case Kind::kSignalDelivery:
      return fmt::format("got signal {}", signal());
    case Kind::kContinued:
      return "was continued";
  }
  return "did something unknown";
}

TracedThread TracedThread::seize(pid_t tid, std::uint64_t options) {
  try {
    call_ptrace(PTRACE_SEIZE, tid, 0, options | PTRACE_O_TRACESYSGOOD, "seizing");
  } catch (const Error& error) {
    // EPERM also says that it is a zombie (kernel/ptrace.c, ptrace_attach).
    if (error.error() == EPERM && kernel::read_stat(tid).state == 'Z') {
      throw Error(Code::kGone, fmt::format("thread {} has ended", tid));
    }
    throw;
  }
  TracedThread thread(tid);
  thread.options_ = options;
  return thread;
}

TracedThread TracedThread::adopt(pid_t tid) {
  TracedThread thread(tid);
  thread.await_stop();
  return thread;
}

TracedThread TracedThread::take_stopped(pid_t tid) {
  TracedThread thread(tid);
  thread.stopped_ = true;
  return thread;
}

TracedThread::TracedThread(TracedThread&& other) noexcept
    : tid_(std::exchange(other.tid_, 0)),
      stopped_(std::exchange(other.stopped_, false)),
      group_stop_(std::exchange(other.group_stop_, false)),
      leads_(std::exchange(other.leads_, false)),
      options_(std::exchange(other.options_, 0)),
      kept_(std::exchange(other.kept_, 0)),
      held_dispatch_(std::exchange(other.held_dispatch_, {})) {}

TracedThread& TracedThread::operator=(TracedThread&& other) noexcept {
  std::swap(tid_, other.tid_);
  std::swap(stopped_, other.stopped_);
  std::swap(group_stop_, other.group_stop_);
  std::swap(leads_, other.leads_);
  std::swap(options_, other.options_);
  std::swap(kept_, other.kept_);
  std::swap(held_dispatch_, other.held_dispatch_);
  return *this;
}

TracedThread::~TracedThread() {
  // Where it has ended meanwhile there is nothing to stop, nor to detach from.
  try {
    if (attached() && !stopped_) interrupt();
  } catch (const Error&) {
  }
  try {
    detach();
  } catch (const Error&) {
  }
}

WaitStatus TracedThread::note(int status) {
  WaitStatus result(status);
  stopped_ = WIFSTOPPED(status);
  if (result.ended()) {
    // Nobody looks at its last stop: it goes on to its end, or has by now.
    if (stopped_) ::ptrace(PTRACE_DETACH, tid_, 0, 0);
    forget();
  }
  return result;
}

bool TracedThread::may_end_unseen() const { return leads_ && (options_ & PTRACE_O_TRACEEXIT) == 0; }

WaitStatus TracedThread::wait() {
  if (may_end_unseen()) {
    ChangeWait changes;
    for (;;) {
      if (std::optional<WaitStatus> status = try_wait()) return *status;
      changes.await();
    }
  }
  int status = 0;
  pid_t waited;
  do {
    waited = ::waitpid(tid_, &status, __WALL | __WNOTHREAD);
  } while (waited < 0 && errno == EINTR);
  if (waited < 0) throw_errno(fmt::format("waiting for thread {}", tid_), Code::kGone);
  return note(status);
}

std::optional<WaitStatus> TracedThread::ask_kernel() {
  int status = 0;
  pid_t waited = ::waitpid(tid_, &status, __WALL | __WNOTHREAD | WNOHANG);
  if (waited < 0) throw_errno(fmt::format("waiting for thread {}", tid_), Code::kGone);
  if (waited == 0) return std::nullopt;
  return note(status);
}

std::optional<WaitStatus> TracedThread::try_wait() {
  std::optional<WaitStatus> status = ask_kernel();
  if (status || !may_end_unseen() || kernel::read_stat(tid_).state != 'Z') return status;
  // As of one that stops for its end.
  return WaitStatus(PTRACE_EVENT_EXIT << 16 | SIGTRAP << 8 | 0x7f);
}

void TracedThread::request_stop() {
  call_ptrace(PTRACE_INTERRUPT, tid_, 0, nullptr, "interrupting");
}

// Of one that is to stop: whether it has. What comes first is let pass.
bool TracedThread::is_at_stop(pid_t tid, const WaitStatus& status) {
  if (status.ended()) {
    throw Error(Code::kGone, fmt::format("thread {} {}", tid, status.describe()));
  }
  switch (status.kind()) {
    case WaitStatus::Kind::kGroupStop:
      group_stop_ = true;
      return true;
    case WaitStatus::Kind::kEventStop:
      group_stop_ = false;
      return true;
    case WaitStatus::Kind::kSignalDelivery:
      resume(PTRACE_CONT, status.signal());
      return false;
    default:
      resume(PTRACE_CONT);
      return false;
  }
}

void TracedThread::await_stop() {
  pid_t tid = tid_;
  while (!is_at_stop(tid, wait())) {
  }
}

bool TracedThread::await_stop(ChangeWait& changes) {
  pid_t tid = tid_;
  for (;;) {
    std::optional<WaitStatus> status = try_wait();
    if (status && is_at_stop(tid, *status)) return true;
    if (!status && !changes.await()) return false;
  }
}

void TracedThread::give_up_stop() {
  std::optional<WaitStatus> status = try_wait();
  if (!status) return forget();
  if (status->kind() != WaitStatus::Kind::kSignalDelivery) return;
  static_cast<void>(::ptrace(PTRACE_DETACH, tid_, 0, status->signal()));
  forget();
}

void TracedThread::interrupt() {
  request_stop();
  await_stop();
}

void TracedThread::run_into_system_call(long number) {
  pid_t tid = tid_;
  int signal = 0;
  while (interrupted_system_call(registers()) != number) {
    WaitStatus status = resume_until_stop(PTRACE_SYSCALL, signal);
    if (status.ended()) {
      throw Error(Code::kGone, fmt::format("thread {} {}", tid, status.describe()));
    }
    signal = status.kind() == WaitStatus::Kind::kSignalDelivery ? status.signal() : 0;
    bool entry = status.kind() == WaitStatus::Kind::kSyscallStop && at_system_call_entry();
    if (!entry || interrupted_system_call(registers()) != number) continue;
    request_stop();
    resume(PTRACE_CONT);
    await_stop();
  }
}

void TracedThread::resume(int request, int signal) {
  // One that was killed meanwhile may have come to its last stop (PTRACE_O_TRACEEXIT), from which
  // it would go on without a word.
  if (std::optional<WaitStatus> status = stopped_ ? ask_kernel() : std::nullopt) {
    if (status->ended()) {
      throw Error(Code::kGone, fmt::format("thread {} {}", tid_, status->describe()));
    }
  }
  TELEFORK_ASSERT(stopped_);
  call_ptrace(request, tid_, 0, static_cast<std::uint64_t>(signal), "resuming");
  stopped_ = false;
}

void TracedThread::listen() {
  TELEFORK_ASSERT(stopped_);
  call_ptrace(PTRACE_LISTEN, tid_, 0, nullptr, "listening to");
  stopped_ = false;
}

WaitStatus TracedThread::resume_until_stop(int request, int signal) {
  resume(request, signal);
  return wait();
}

Registers TracedThread::registers() const {
  Registers registers;
  iovec io = {&registers.general, sizeof(registers.general)};
  call_ptrace(PTRACE_GETREGSET, tid_, NT_PRSTATUS, &io, "reading the registers of");
  return registers;
}

void TracedThread::set_registers(const Registers& registers) {
  Registers copy = registers;
  iovec io = {&copy.general, sizeof(copy.general)};
  call_ptrace(PTRACE_SETREGSET, tid_, NT_PRSTATUS, &io, "setting the registers of");
}

std::vector<std::uint8_t> TracedThread::xstate() const {
  // Not touched beyond what there is: a fault costs more than the call.
  auto buffer = std::make_unique_for_overwrite<std::uint8_t[]>(kMaxXstate);
  iovec io = {buffer.get(), kMaxXstate};
  call_ptrace(PTRACE_GETREGSET, tid_, static_cast<std::uint64_t>(kXstateNote), &io,
              "reading the xstate of");
  return {buffer.get(), buffer.get() + io.iov_len};
}

void TracedThread::set_xstate(const std::vector<std::uint8_t>& xstate) {
  std::vector<std::uint8_t> copy = xstate;
  iovec io = {copy.data(), copy.size()};
  call_ptrace(PTRACE_SETREGSET, tid_, static_cast<std::uint64_t>(kXstateNote), &io,
              "setting the xstate of");
}

std::uint64_t TracedThread::signal_mask() const {
  std::uint64_t mask = 0;
  call_ptrace(PTRACE_GETSIGMASK, tid_, sizeof(mask), &mask, "reading the signal mask of");
  return mask;
}

void TracedThread::set_signal_mask(std::uint64_t mask) {
  call_ptrace(PTRACE_SETSIGMASK, tid_, sizeof(mask), &mask, "setting the signal mask of");
}

siginfo_t TracedThread::stop_signal_info() const {
  siginfo_t info{};
  call_ptrace(PTRACE_GETSIGINFO, tid_, 0, &info, "reading the signal of");
  return info;
}

std::vector<siginfo_t> TracedThread::pending_signals(bool shared) const {
  std::vector<siginfo_t> pending;
  for (;;) {
    siginfo_t batch[32];
    __ptrace_peeksiginfo_args arguments{};
    arguments.off = pending.size();
    arguments.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0;
    arguments.nr = 32;
    long count = call_ptrace(PTRACE_PEEKSIGINFO, tid_, reinterpret_cast<std::uint64_t>(&arguments),
                             batch, "reading the pending signals of");
    if (count == 0) return pending;
    pending.insert(pending.end(), batch, batch + count);
    if (pending.size() > kMaxPendingSignals) {
      throw Error(Code::kRefused, fmt::format("thread {} has more than {} pending signals", tid_,
                                              kMaxPendingSignals));
    }
  }
}

std::optional<TracedThread::RseqArea> TracedThread::rseq() const {
  __ptrace_rseq_configuration configuration{};
  long size = call_ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid_, sizeof(configuration),
                          &configuration, "reading the rseq area of");
  if (size <= 0 || configuration.rseq_abi_pointer == 0) return std::nullopt;
  return RseqArea{configuration.rseq_abi_pointer, configuration.rseq_abi_size,
                  configuration.signature, configuration.flags};
}

std::vector<TracedThread::SeccompFilter> TracedThread::seccomp_filters() const {
  std::vector<SeccompFilter> filters;
  for (std::uint64_t index = 0;; ++index) {
    auto request = static_cast<__ptrace_request>(kernel::kPtraceSeccompGetFilter);
    const long count = ::ptrace(request, tid_, index, nullptr);
    if (count < 0 && errno == ENOENT) return filters;
    if (count < 0) throw_errno(fmt::format("reading the seccomp filters of thread {}", tid_));
    SeccompFilter filter{std::vector<std::uint8_t>(static_cast<std::size_t>(count) * 8), 0};
    call_ptrace(request, tid_, index, filter.program.data(), "reading a seccomp filter of");
    std::uint64_t metadata[] = {index, 0};  // struct seccomp_metadata: filter_off, flags
    call_ptrace(static_cast<__ptrace_request>(kernel::kPtraceSeccompGetMetadata), tid_,
                sizeof(metadata), metadata, "reading the flags of a seccomp filter of");
    filter.flags = metadata[1];
    filters.push_back(std::move(filter));
  }
}

std::optional<kernel::SyscallUserDispatch> TracedThread::dispatch() const {
  if (held_dispatch_) return held_dispatch_;
  kernel::SyscallUserDispatch dispatch;
  void* size = reinterpret_cast<void*>(sizeof(dispatch));
  const long result = ::ptrace(static_cast<__ptrace_request>(kernel::kPtraceGetSyscallUserDispatch),
                               tid_, size, &dispatch);
  if (result != 0 || dispatch.mode == 0) return std::nullopt;
  return dispatch;
}

void TracedThread::set_dispatch(const kernel::SyscallUserDispatch& dispatch) {
  kernel::SyscallUserDispatch copy = dispatch;
  call_ptrace(kernel::kPtraceSetSyscallUserDispatch, tid_, sizeof(copy), &copy,
              "setting the dispatch of system calls of");
}

void TracedThread::hold_dispatch() {
  if (held_dispatch_) return;
  held_dispatch_ = dispatch();
  if (!held_dispatch_) return;
  set_options(options_);
  set_dispatch({});
}

void TracedThread::release_dispatch() {
  if (!held_dispatch_) return;
  set_dispatch(*held_dispatch_);
  forget_dispatch();
}

void TracedThread::forget_dispatch() {
  if (!held_dispatch_) return;
  held_dispatch_.reset();
  set_options(options_);
}

bool TracedThread::at_system_call_entry() const {
  __ptrace_syscall_info info{};
  call_ptrace(PTRACE_GET_SYSCALL_INFO, tid_, sizeof(info), &info, "reading the system call of");
  return info.op == PTRACE_SYSCALL_INFO_ENTRY;
}

void TracedThread::touch(RemotePtr address) const {
  static_cast<void>(::ptrace(PTRACE_PEEKDATA, tid_, address.value(), 0));
}

void TracedThread::set_options(std::uint64_t options) {
  const std::uint64_t dies = held_dispatch_ ? PTRACE_O_EXITKILL : 0;
  call_ptrace(PTRACE_SETOPTIONS, tid_, 0, options | kept_ | dies | PTRACE_O_TRACESYSGOOD,
              "setting options of");
  options_ = options;
}

void TracedThread::suspend_seccomp(std::uint64_t more) {
  kept_ = more | PTRACE_O_SUSPEND_SECCOMP;
  set_options(options_);
}

void TracedThread::drop_options() {
  release_dispatch();
  kept_ = 0;
  set_options(0);
}

unsigned long TracedThread::event_message() const {
  unsigned long message = 0;
  call_ptrace(PTRACE_GETEVENTMSG, tid_, 0, &message, "reading the event of");
  return message;
}

bool TracedThread::try_detach() {
  if (held_dispatch_ && stopped_) {
    try {
      release_dispatch();
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;  // else the next call says so
    }
  }
  if (::ptrace(PTRACE_DETACH, tid_, 0, 0) != 0) {
    if (errno == ESRCH) return false;
    throw_errno(fmt::format("detaching from thread {}", tid_));
  }
  forget();
  return true;
}

void TracedThread::see_end() {
  stopped_ = false;
  try {
    while (attached() && !wait().ended()) try_detach();
    // Where others of its group live on, it cannot be reaped yet.
    if (attached()) ask_kernel();
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
  }
  forget();
}

void TracedThread::detach() {
  if (!attached() || try_detach()) return;
  pid_t tid = tid_;
  see_end();
  throw Error(Code::kGone, fmt::format("thread {} has ended", tid));
}

}  // namespace telefork::tracee
