#include "tracee/freezer.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <sys/ptrace.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_task.h"
#include "kernel/yama.h"
#include "tracee/memory.h"
#include "tracee/stub.h"

namespace telefork::tracee {
namespace {

// The longest function of the vDSO is some hundred instructions, loops on a sequence lock aside.
constexpr int kMaxSteps = 100'000;

Error cannot_trace(pid_t pid, const Error& error) {
  pid_t tracer = kernel::read_status(pid).tracer_pid;
  std::string why = kernel::say_bar(kernel::read_trace_bar());
  if (tracer != 0) {
    why = fmt::format("process {} traces it; end that debugger first", tracer);
  } else if (why.empty()) {
    why =
        "it is another user's, or protected; ask as its user or as root, or have it set "
        "PR_SET_DUMPABLE (prctl(2)) to 1";
  }
  return Error(Code::kRefused, fmt::format("process {} cannot be traced: {}", pid, why),
               error.error());
}

bool has_ended(pid_t tid) {
  try {
    char state = kernel::read_stat(tid).state;
    return state == 'Z' || state == 'X';
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return true;
  }
}

}  // namespace

[[noreturn]] void FrozenProcess::give_up(pid_t tid, const ChangeWait& changes) {
  Error error(Code::kFailed, fmt::format("interrupted while stopping process {}", pid_));
  if (!changes.interrupted()) {
    error =
        Error(Code::kFailed,
              fmt::format("thread {} of process {} does not stop: it waits in the kernel (state "
                          "{}, {})",
                          tid, pid_, kernel::read_stat(tid).state, kernel::read_wchan(tid)));
  }
  for (TracedThread& thread : threads_) {
    if (!thread.stopped()) thread.give_up_stop();
  }
  throw error;
}

bool FrozenProcess::seize_new_threads(std::uint64_t options, ChangeWait& changes) {
  std::size_t known = threads_.size();
  for (pid_t tid : kernel::list_threads(pid_)) {
    auto same = [tid](const TracedThread& thread) { return thread.tid() == tid; };
    if (std::any_of(threads_.begin(), threads_.end(), same)) continue;
    try {
      TracedThread thread = TracedThread::seize(tid, options);
      thread.set_leads(tid == pid_);
      thread.request_stop();
      threads_.push_back(std::move(thread));
    } catch (const Error& error) {
      // The kernel also says EPERM of a thread that is ending (ptrace_attach in kernel/ptrace.c).
      if (error.error() == EPERM && tid != pid_ && has_ended(tid)) continue;
      if (error.error() == EPERM) throw cannot_trace(pid_, error);
      if (error.code() != Code::kGone || tid == pid_) throw;
    }
  }
  for (std::size_t i = known; i < threads_.size(); ++i) {
    try {
      pid_t tid = threads_[i].tid();
      if (!threads_[i].await_stop(changes)) give_up(tid, changes);
    } catch (const Error& error) {
      if (error.code() != Code::kGone || threads_[i].tid() == pid_) throw;
    }
  }
  std::erase_if(threads_, [](const TracedThread& thread) { return !thread.attached(); });
  return threads_.size() != known;
}

void FrozenProcess::step_out_of_vdso() {
  RemotePtr start, end;
  map_ = kernel::read_maps(pid_);
  for (const kernel::Vma& vma : map_) {
    if (!vma.is_vdso()) continue;
    start = vma.start;
    end = vma.end;
  }
  for (TracedThread& thread : threads_) {
    bool stepped_out = false;
    for (int step = 0;; ++step) {
      RemotePtr at(instruction_pointer(thread.registers()));
      if (at < start || at >= end) break;
      if (step == kMaxSteps) {
        throw Error(Code::kRefused, fmt::format("thread {} does not leave the vDSO", thread.tid()));
      }
      stepped_out = true;
      WaitStatus status = thread.resume_until_stop(PTRACE_SINGLESTEP);
      if (status.ended()) throw Error(Code::kGone, fmt::format("process {} has ended", pid_));
      bool stepped =
          status.kind() == WaitStatus::Kind::kSignalDelivery && status.signal() == SIGTRAP;
      // Any other signal is delivered: its handler is outside.
      if (status.kind() == WaitStatus::Kind::kSignalDelivery && !stepped) {
        thread.request_stop();
        thread.resume(PTRACE_CONT, status.signal());
        thread.await_stop();
      }
    }
    if (!stepped_out) continue;
    // A single step ends in a signal stop; the kernel settles an interrupted call only in an
    // interrupt's.
    thread.request_stop();
    thread.resume(PTRACE_CONT);
    thread.await_stop();
  }
}

// Those whose area says that they may be inside one.
std::vector<TracedThread*> FrozenProcess::threads_in_sequences() {
  std::vector<TracedThread*> registered;
  ScatteredMemory current;
  for (TracedThread& thread : threads_) {
    std::optional<TracedThread::RseqArea> area = thread.rseq();
    if (!area) continue;
    registered.push_back(&thread);
    current.add(RemotePtr(area->address) + kernel::kRseqCsOffset, sizeof(std::uint64_t));
  }
  if (registered.empty()) return registered;
  try {
    current.read(pid_);
  } catch (const Error& error) {
    if (error.error() != EFAULT) throw;
    return registered;  // one of them is not mapped any more
  }
  std::vector<TracedThread*> inside;
  for (std::size_t i = 0; i < registered.size(); ++i) {
    const auto bytes = current.bytes(i);
    auto is_zero = [](std::byte byte) { return byte == std::byte{0}; };
    if (!std::all_of(bytes.begin(), bytes.end(), is_zero)) inside.push_back(registered[i]);
  }
  return inside;
}

void FrozenProcess::abort_restartable_sequences() {
  for (TracedThread* thread : threads_in_sequences()) {
    std::optional<TracedThread::RseqArea> area = thread->rseq();
    if (!area) continue;
    try {
      auto current =
          read_object<std::uint64_t>(pid_, RemotePtr(area->address) + kernel::kRseqCsOffset);
      if (current == 0) continue;
      auto section = read_object<kernel::RseqCriticalSection>(pid_, RemotePtr(current));
      Registers registers = thread->registers();
      if (instruction_pointer(registers) - section.start_ip >= section.post_commit_offset) continue;
      set_instruction_pointer(registers, section.abort_ip);
      thread->set_registers(registers);
    } catch (const Error& error) {
      // An area or a section that is not mapped any more: the kernel's to punish.
      if (error.error() != EFAULT) throw;
    }
  }
}

void FrozenProcess::suspend_seccomp(std::uint64_t more) {
  if (kernel::read_status(pid_).seccomp == 0 || !kernel::may_suspend_seccomp()) return;
  for (TracedThread& thread : threads_) thread.suspend_seccomp(more);
}

void FrozenProcess::make_calls_again() {
  for (TracedThread& thread : threads_) {
    const Registers registers = read_thread_state(thread).registers;
    if (will_restart(registers)) thread.set_registers(keep_system_call(registers));
  }
}

TracedThread& FrozenProcess::thread_seen_as(pid_t own_tid) {
  for (TracedThread& thread : threads_) {
    if (kernel::read_status(thread.tid()).ns_pids.back() == own_tid) return thread;
  }
  throw Error(Code::kGone, fmt::format("thread {} of process {} has ended", own_tid, pid_));
}

// The leader after the others: of one that was killed the end is told when theirs were seen.
void FrozenProcess::thaw(pid_t last) {
  std::partition(threads_.begin(), threads_.end(),
                 [this](const TracedThread& thread) { return thread.tid() == pid_; });
  std::optional<TracedThread> kept;
  for (TracedThread& thread : threads_) {
    if (thread.tid() == last && last != pid_) kept.emplace(std::move(thread));
  }
  while (threads_.size() > 1) threads_.pop_back();
  if (kept && !leader().try_detach()) kept.reset();
  threads_.clear();
}

void FrozenProcess::kill() {
  ::kill(pid_, SIGKILL);
  await_end();
}

void FrozenProcess::await_end() {
  for (; !threads_.empty(); threads_.pop_back()) {
    TracedThread& thread = threads_.back();
    thread.set_leads(false);
    try {
      while (thread.attached() && !thread.wait().ended()) thread.resume(PTRACE_CONT);
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  }
}

void FrozenProcess::freeze_all(std::uint64_t options, ChangeWait& changes) {
  while (seize_new_threads(options, changes)) {
  }
  if (threads_.empty()) throw Error(Code::kGone, fmt::format("process {} has ended", pid_));
  std::sort(threads_.begin(), threads_.end(),
            [pid = pid_](const TracedThread& a, const TracedThread& b) {
              return (a.tid() != pid) < (b.tid() != pid) ||
                     ((a.tid() != pid) == (b.tid() != pid) && a.tid() < b.tid());
            });
  leader().set_leads(threads_.size() > 1);
  step_out_of_vdso();
  abort_restartable_sequences();
}

FrozenProcess FrozenProcess::freeze(pid_t pid, std::uint64_t options, const Patience& patience) {
  FrozenProcess frozen(pid);
  ChangeWait changes(patience);
  frozen.freeze_all(options, changes);
  return frozen;
}

FrozenProcess FrozenProcess::freeze(StopWatch& watch, std::uint64_t options,
                                    const Patience& patience,
                                    std::vector<StopWatch::Event>& events) {
  const pid_t pid = watch.pid();
  FrozenProcess frozen(pid);
  ChangeWait changes(patience);
  std::optional<TracedThread> leader = watch.hold(changes, events);
  if (!leader) throw Error(Code::kGone, fmt::format("process {} has ended", pid));
  frozen.threads_.push_back(std::move(*leader));
  try {
    frozen.leader().set_options(options);
    frozen.freeze_all(options, changes);
  } catch (const Error&) {
    frozen.thaw(watch);
    throw;
  }
  return frozen;
}

void FrozenProcess::thaw(StopWatch& watch) {
  std::partition(threads_.begin(), threads_.end(),
                 [this](const TracedThread& thread) { return thread.tid() == pid_; });
  // One that was lost is waited for by who watches it.
  if (threads_.empty() || leader().tid() != pid_) {
    threads_.clear();
    return watch.take_back(pid_);
  }
  while (threads_.size() > 1) threads_.pop_back();
  leader().set_leads(false);
  watch.go_on(std::move(leader()));
  threads_.clear();
}

}  // namespace telefork::tracee
