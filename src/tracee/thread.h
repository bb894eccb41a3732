// One thread of another process, seized with PTRACE_SEIZE by this thread.
//
//     TracedThread thread = TracedThread::seize(tid, 0);
//     thread.interrupt();
//     Registers registers = thread.registers();
//     ...
//     thread.detach();                      // also done by the destructor
//
// Owned by the thread that made it: only a tracer's own thread may use ptrace(2) and wait for its
// tracees. Every failure because the thread has ended is Code::kGone. When the tracer itself dies
// the kernel detaches and resumes the thread; with PTRACE_O_EXITKILL among the options it kills it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "kernel/abi.h"
#include "tracee/change_wait.h"
#include "tracee/registers.h"
#include "tracee/wait_status.h"

namespace telefork::tracee {

class TracedThread {
 public:
  // Does not stop it. PTRACE_O_TRACESYSGOOD is always among the options.
  static TracedThread seize(pid_t tid, std::uint64_t options);
  // One that a traced thread has made with CLONE_PTRACE: has its options, and is stopped before its
  // first instruction.
  static TracedThread adopt(pid_t tid);
  // One that this thread has seized before (StopWatch::release), and that is not in a stop that
  // somebody has waited for.
  static TracedThread take_over(pid_t tid) { return TracedThread(tid); }
  // The same of one that is in a stop which somebody has waited for.
  static TracedThread take_stopped(pid_t tid);

  TracedThread(TracedThread&& other) noexcept;
  TracedThread& operator=(TracedThread&& other) noexcept;
  TracedThread(const TracedThread&) = delete;
  TracedThread& operator=(const TracedThread&) = delete;
  // Detaches; what a signal interrupted goes on.
  ~TracedThread();

  pid_t tid() const { return tid_; }
  bool stopped() const { return stopped_; }
  bool attached() const { return tid_ > 0; }
  // Whether its thread group was stopped by a signal when it was interrupted. Detaching stops it
  // again.
  bool in_group_stop() const { return group_stop_; }

  // Stops it. A signal that is being delivered meanwhile is delivered first: nothing is lost, and
  // the thread stops before the first instruction of its handler.
  void interrupt();
  // The two halves of it, to stop many threads in the time of one.
  void request_stop();
  void await_stop();
  // The same with patience: false when it is at its end.
  bool await_stop(ChangeWait& changes);
  // Gives up a request. One that has not stopped yet stays traced: PTRACE_DETACH needs a stop. When
  // the tracer ends the kernel lets it go on as if nothing had been asked of it.
  void give_up_stop();

  // Of a thread stopped by interrupt(): lets it go on until it is stopped inside the system call
  // `number`, in which it is known to end up.
  void run_into_system_call(long number);

  // Goes on until the next stop, whatever it is. `request` is PTRACE_CONT, PTRACE_SYSCALL or
  // PTRACE_SINGLESTEP; `signal` is delivered, 0: none.
  WaitStatus resume_until_stop(int request, int signal = 0);
  void resume(int request, int signal = 0);
  // Of a thread in a group stop: leaves it there; what ends that stop is its next one.
  void listen();
  WaitStatus wait();
  // Empty where nothing has happened yet.
  std::optional<WaitStatus> try_wait();

  // Of a stopped thread.
  Registers registers() const;
  void set_registers(const Registers& registers);
  std::vector<std::uint8_t> xstate() const;
  void set_xstate(const std::vector<std::uint8_t>& xstate);
  std::uint64_t signal_mask() const;
  void set_signal_mask(std::uint64_t mask);
  // The siginfo_t of the signal that it stopped for.
  siginfo_t stop_signal_info() const;
  // Pending signals of this thread (shared: of its whole process), in order, 128 bytes each.
  std::vector<siginfo_t> pending_signals(bool shared) const;
  struct RseqArea {
    std::uint64_t address;
    std::uint32_t size;
    std::uint32_t signature;
    std::uint32_t flags;
  };
  // Nothing where none is registered.
  std::optional<RseqArea> rseq() const;
  // One of seccomp(2): struct sock_filter, one behind the other.
  struct SeccompFilter {
    std::vector<std::uint8_t> program;
    std::uint64_t flags;  // SECCOMP_FILTER_FLAG_LOG
    bool operator==(const SeccompFilter&) const = default;
  };
  // The oldest first. To read them takes CAP_SYS_ADMIN.
  std::vector<SeccompFilter> seccomp_filters() const;
  // Syscall User Dispatch, where it is on: the kernel hands its system calls back to the program
  // (prctl(2), PR_SET_SYSCALL_USER_DISPATCH). Nothing too where the kernel cannot tell, before
  // Linux 6.4.
  std::optional<kernel::SyscallUserDispatch> dispatch() const;
  // Where it is on: off until release_dispatch(), or until it is let go, so that it can be made to
  // do system calls of ours. Nobody could put that back for a tracer that dies, so the thread dies
  // with it (PTRACE_O_EXITKILL). dispatch() says what it will be.
  void hold_dispatch();
  void release_dispatch();
  bool holds_dispatch() const { return held_dispatch_.has_value(); }
  // It executes another program: an exec has ended it.
  void forget_dispatch();
  void set_dispatch(const kernel::SyscallUserDispatch& dispatch);
  // Of a thread in a syscall stop: whether it is the one at the entry (PTRACE_GET_SYSCALL_INFO).
  bool at_system_call_entry() const;
  // Makes a stack that ends above `address` grow to it, if it may: unlike process_vm_writev(2),
  // what ptrace(2) reads it reads as the thread itself would (mm/memory.c, __access_remote_vm).
  void touch(RemotePtr address) const;
  void set_options(std::uint64_t options);
  // Of a stopped thread: no seccomp filter, nor strict mode, is in force as long as it is traced
  // (PTRACE_O_SUSPEND_SECCOMP), which takes CAP_SYS_ADMIN. That, and `more` options, stay among its
  // options whatever these are set to.
  void suspend_seccomp(std::uint64_t more);
  // None any more, those of suspend_seccomp() included.
  void drop_options();
  unsigned long event_message() const;

  // Lets it go on untraced. No effect when it is not attached. One that was killed in its stop is
  // waited for first, so that it is no zombie of this process.
  void detach();
  // The same, but false where it was killed in its stop: its end is still to be waited for.
  bool try_detach();
  // For a thread that has ended or that another takes over.
  void forget() { tid_ = 0; }

  // Whether it is a leader and others of its group may be traced too. Of such a one the kernel
  // tells the end only when theirs were seen (kernel/exit.c, delay_group_leader): what waits for it
  // alone would wait for ever. With this it has ended as soon as it is a zombie, and is reaped by
  // detach(), if those of the others were by then. With PTRACE_O_TRACEEXIT among its options it
  // says itself that it ends, and need not be looked at.
  void set_leads(bool leads) { leads_ = leads; }

 private:
  explicit TracedThread(pid_t tid) : tid_(tid) {}
  bool may_end_unseen() const;
  WaitStatus note(int status);
  bool is_at_stop(pid_t tid, const WaitStatus& status);
  std::optional<WaitStatus> ask_kernel();
  void see_end();

  pid_t tid_ = 0;
  bool stopped_ = false;
  bool group_stop_ = false;
  bool leads_ = false;
  std::uint64_t options_ = 0;  // that were asked for
  std::uint64_t kept_ = 0;     // beside these
  std::optional<kernel::SyscallUserDispatch> held_dispatch_;
};

}  // namespace telefork::tracee
