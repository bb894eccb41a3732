// A process whose program goes on elsewhere: it stays, and nothing of it runs.
//
//     ParkedProcess parked(FrozenProcess::freeze(pid, 0), {caller});
//     ... capture by parked.frozen() and parked.stub() ...
//     parked.hold_for(90s);                    // from here on a guest may run
//     parked.begin_waiting();                  // ... SIGCHLD: parked.poll() ...
//     parked.end_waiting();
//     parked.roll_back(undelivered);           // or restore/homecoming.h
//
// Every thread waits in the stub, whose pages lie where programs map nothing by themselves. What
// happens when the tracer dies:
//
//   until hold_for     every thread goes on at once as it was: the gate is open
//   after it           all wait at a gate; the caller's thread waits out the lease, gives the
//                      timers back and opens the gate; all go on as they were, and the caller's
//                      read(2) from its agent returns 0
//   from commit() on   they go on as what their futures say: the program that was given to
//                      commit() runs to its end whatever happens, and if one of its steps fails
//                      the process ends (125), since it is neither the one nor the other
//
// The gate is one word; what a thread goes on as behind it is what its StubProgram names then, and
// the last steps of commit()'s program write those of all threads:
//
//   thread       stub's end | the gate  | undo steps | rt_sigreturn from its frame
//                                           ^ both replaced by the flip, while the gate is closed
//   the caller's program | flip | gate open | its own undo steps | rt_sigreturn
//
// Signals: all are blocked in all threads. Those for the process are taken one at a time by
// rt_sigtimedwait(2) in the caller's thread. One that was taken is queued again if the tracer dies
// before it asks for the next: so forward it before begin_waiting(). A SIGSTOP stops the process as
// ever, so that its parent sees it; poll() tells. SIGKILL is Code::kGone.
//
// Owned by the thread that froze the process.
#pragma once

#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "tracee/freezer.h"
#include "tracee/guest_stubs.h"
#include "tracee/held_process.h"
#include "tracee/stub.h"

namespace telefork::tracee {

// Of a process that is frozen or parked: whether it was killed. It may only stop on its way to its
// end (PTRACE_O_TRACEEXIT).
bool was_killed(pid_t pid);

class ParkedProcess {
 public:
  struct Options {
    pid_t caller = 0;                      // the thread that waits in read(2)
    std::uint64_t data_size = 256 * 1024;  // as Stub::Options; what threads need comes on top
    std::optional<std::uint64_t> awaited_signals;  // likewise, of the caller's
    // How long the caller's thread waits for a signal at a time: so long it does not see that its
    // tracer has died.
    std::chrono::nanoseconds wait = std::chrono::seconds(5);
    // Ahead of the end of a process that commit() cannot make whole: why. It stands still.
    std::function<void(const Error&)> last_words;
  };

  // Enters the caller's thread; the others are only frozen.
  ParkedProcess(FrozenProcess frozen, const Options& options);
  ParkedProcess(const ParkedProcess&) = delete;
  ParkedProcess& operator=(const ParkedProcess&) = delete;
  // Rolls back, swallowing the error of a process that has ended.
  ~ParkedProcess();

  pid_t pid() const { return frozen_.pid(); }
  pid_t caller() const { return stub_->thread().tid(); }
  FrozenProcess& frozen() { return frozen_; }
  Stub& stub() { return *stub_; }
  // In all threads but the caller's, in their order, from now on until they go on.
  GuestStubs& guests();

  // Ahead of hold_for(): whether there is any timer to disarm. The process cannot make one.
  void look_for_timers();
  // Parks every thread and disarms the timers. Captures that use the stub come before it.
  void hold_for(std::chrono::nanoseconds lease);
  bool held() const { return held_; }
  // Of one that is held: another lease from now on.
  static constexpr std::chrono::nanoseconds kWithoutEnd = std::chrono::hours(24 * 365 * 100);
  void set_lease(std::chrono::nanoseconds lease);
  // For whoever is to let it go on when its tracer is gone.
  HeldProcess held_process() const;
  // Lets go of it as the tracer's death would: it waits, and this object has nothing more of it.
  void leave_held();
  // What the thread was when it was frozen.
  const ThreadState& state_of(pid_t tid);

  struct Event {
    enum class Kind {
      kSignal,     // `info` was taken
      kStopped,    // its group was stopped by info.si_signo
      kContinued,  // that is over
    };
    Kind kind;
    siginfo_t info{};
  };
  // What was taken last counts as delivered.
  void begin_waiting();
  bool waiting() const { return waiting_; }
  // Something that has happened; empty: nothing yet. After a signal the wait is over, to be begun
  // again. To be called until it is empty, after each SIGCHLD: the wait ends from time to time by
  // itself, and is begun again here.
  std::optional<Event> poll();
  // Ends the wait; a signal that came at that instant is returned.
  std::optional<siginfo_t> end_waiting();

  // Every thread as it was, the stub gone, the timers armed with what they had left, and these
  // signals queued ahead of those that wait for it by then.
  void roll_back(std::span<const siginfo_t> undelivered);

  // Ends the process with this exit status.
  void end(int status);

  // The last step of `program` is an execve(2), with which every thread but the first ends; the
  // caller has to be the first. Throws what failed, and then all is as before. Afterwards the
  // result is the leader, stopped as the new program begins, and this object has let go of it.
  TracedThread& become(const SyscallProgram& program);

  // Undo steps for what was done to it while it is held: made before the gate opens if the tracer
  // dies. Replaces those of before. Uses Stub::allocate().
  void set_undo(const SyscallProgram& steps);
  // The same for another thread than the caller's, which makes them behind the gate.
  void set_undo(pid_t tid, const SyscallProgram& steps);

  // What a thread is to go on as, and what it does itself before that. Replaces what was said
  // before. Uses Stub::allocate().
  void set_future(pid_t tid, const ThreadState& state, const SyscallProgram& steps);
  // It ends instead, as its last step.
  void set_end(pid_t tid, const SyscallProgram& steps);
  // A thread that was made meanwhile and waits at the gate with its StubProgram at `program`.
  void adopt(TracedThread thread, RemotePtr program);
  RemotePtr gate() const { return gate_; }
  void forget_futures();
  // Lets threads that were adopted end.
  void dismiss_adopted();

  // Runs `program`, then every thread has its future; all need one. Throws what failed, and then
  // the process was killed, once Options::last_words has heard why; kGone where somebody else has
  // killed it, of which nobody hears. Afterwards it runs, untraced.
  void commit(SyscallProgram program);

 private:
  struct Parked {
    pid_t tid = 0;
    RemotePtr program;                   // its StubProgram
    RemotePtr future;                    // what that becomes; null: it goes on as it was
    Registers future_registers{};        // as the future has them
    const ThreadState* state = nullptr;  // as it was
    std::unique_ptr<ThreadState> own;    // of one that was adopted
  };

  TracedThread& thread(pid_t tid);
  Parked& parked(pid_t tid);
  void save_timers();
  void note_parked();
  void add_rearming(SyscallProgram& program, bool undo) const;
  void set_stub_entry(TracedThread& thread, const Parked& parked, RemotePtr stack);
  std::optional<siginfo_t> take_result();
  RemotePtr write_frame(const ThreadState& state);
  void join_group_stop();
  void leave();
  void forget();

  struct Timer {
    int number;  // ITIMER_*, or of timer_create(2)
    bool posix;
    RemotePtr value;  // what it had left, in the stub's pages
  };

  FrozenProcess frozen_;
  Options options_;
  std::unique_ptr<Stub> stub_;
  std::unique_ptr<GuestStubs> guests_;
  std::vector<Parked> parked_;  // all but the caller's
  Parked caller_;
  std::vector<TracedThread> adopted_;
  std::vector<Timer> timers_;
  bool has_no_timers_ = false;
  SyscallProgram farewell_;
  bool held_ = false;
  RemotePtr gate_;   // open until hold_for()
  RemotePtr lease_;  // a timespec
  RemotePtr wait_program_;
  SyscallProgram wait_;
  Data wait_info_{};
  Result wait_result_{};
  bool waiting_ = false;
  bool released_ = false;
};

}  // namespace telefork::tracee
