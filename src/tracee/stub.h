// Runs syscall programs inside a stopped thread of another process.
//
//     Stub stub(thread, pid, Stub::Options{});
//     ProgramRun run = stub.run(program);
//     stub.remove();
//
// How it gets in, so that the death of the tracer at any instant leaves a program that goes on as
// if nothing had been (S is the state that the thread would continue from):
//
//   1. a signal frame with the thread's registers, xstate and mask is written below the red zone of
//      its stack, where the kernel itself would put one;
//   2. S := "about to make rt_sigreturn from that frame", at the instructions that every libc has
//      for that; the mask is set to block everything, which the frame gives back;
//   3. for mmap: the thread is let into that system call, and at its entry stop the number becomes
//      mmap's and the instruction pointer goes back to the same instructions: after the call, S is
//      what it was;
//   4. the stub's code and a second frame are written into the new pages; S := the stub's way out,
//      which makes rt_sigreturn from the second frame; the bytes of the stack are put back;
//   5. a program's S is its own start: it runs to its end, and then leaves through the frame.
//
// remove() goes the same way back, with munmap in the place of mmap. The destructor removes the
// stub too, swallowing the error of a process that has ended meanwhile; the process is then gone or
// as it was before. If the tracer dies while the stub is in place its pages stay mapped: the
// process runs on, some kilobytes larger.
//
// Room: a program, or what is allocated, may be of any size. What does not fit has more memory
// mapped, in the place of the first system call of the way out: so what is to be undone then stays
// in force. It is the stub's as its other pages are, and goes with them.
//
// Signals: everything but the stub's own stop signal is blocked meanwhile and stays pending. A
// SIGSTOP takes effect at once, as for any process, and while it is in force the thread stops again
// when its tracer lets go of it. Owned by the thread that owns the TracedThread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "kernel/procfs_maps.h"
#include "tracee/memory.h"
#include "tracee/registers.h"
#include "tracee/syscall_program.h"
#include "tracee/thread.h"

namespace telefork::tracee {

// The whole of what a thread's registers hold.
struct ThreadState {
  Registers registers;
  std::vector<std::uint8_t> xstate;
  std::uint64_t signal_mask = 0;
};

ThreadState read_thread_state(const TracedThread& thread);

// Of a stopped thread that is to leave the stub by itself, with what its StubProgram says then:
// lets it go until it is out and stopped, as what its frame made of it, which was to be `as`; what
// no frame can say is that a system call was interrupted. False: it has ended instead.
bool leave_stub(TracedThread& thread, const Registers& as);

constexpr std::uint64_t kGuestProgramSize = 2 * kPageSize;

class Stub {
 public:
  // Where so many bytes may be mapped; none: the kernel's choice.
  using Place = std::function<RemotePtr(std::uint64_t size)>;
  struct Options {
    RemotePtr address;                     // where; 0: the kernel's choice
    std::uint64_t data_size = 256 * 1024;  // for programs, to begin with
    Place place;                           // of more room
    // What of its signals the thread may be waiting for, by sigwait or signalfd: none of them is
    // taken for the stop signal, and without one a program is slow. By default what it has blocked.
    std::optional<std::uint64_t> awaited_signals;
    // Of the process, where it is known; null: it is read. Looked at by the constructor alone.
    const std::vector<kernel::Vma>* map = nullptr;
  };

  // `thread` must be stopped by interrupt(). Throws kRefused for what cannot be entered (32-bit
  // code, no libc's return from signals, no room on the stack), naming it. While it is in place
  // nothing dispatches its system calls (TracedThread::hold_dispatch).
  Stub(TracedThread& thread, pid_t pid, const Options& options);
  // In another stopped thread of a process where `host` is in place: uses its pages, so that
  // nothing has to be mapped. `host` may run nothing while this one lives, and only one such stub
  // may live at a time; for many see guest_stubs.h.
  Stub(TracedThread& thread, Stub& host);
  // In so many of them, which are host.next_program()'s.
  struct Room {
    RemotePtr address;
    std::uint64_t size;
  };
  // What is to lie there is added to `memory`; when that has been written enter() or begin() may
  // follow, and until then the thread is as it was.
  // On its way out it waits until the u32 at `hold` is not 0.
  struct Guest {
    ThreadState state;
    std::uint32_t own_tid;  // as the process sees it
    Room room;
    RemotePtr hold;
  };
  Stub(TracedThread& thread, Guest guest, Stub& host, ScatteredMemory& memory);
  void enter();
  // How many such a one needs for itself, with a program of at most kGuestProgramSize beside.
  static std::uint64_t guest_size(const ThreadState& state);
  Stub(const Stub&) = delete;
  Stub& operator=(const Stub&) = delete;
  ~Stub();

  // Throws an Error that names the step that failed; kGone where the process ended.
  ProgramRun run(const SyscallProgram& program);
  // The same, but a failing step is the caller's to look at.
  ProgramRun try_run(const SyscallProgram& program);
  // Runs a program whose last step is an execve; true when it happened: then the stub is gone with
  // the old memory, and the thread is stopped at its PTRACE_EVENT_EXEC (set PTRACE_O_TRACEEXEC
  // before). False: the program failed, see `failed_run`. An execve waits until all other threads
  // are gone, of which those that are traced have to be waited for: `reap_others` looks at them
  // without blocking, again and again.
  bool run_to_exec(const SyscallProgram& program, std::optional<ProgramRun>* failed_run,
                   const std::function<void()>& reap_others = {});

  // A program that waits for something, and its tracer for other things meanwhile. It lies at `at`,
  // which was allocated for it: until another program is started, what it is to undo stays in
  // force. All signals are blocked. Between start() and the end only these may be called.
  void start(const SyscallProgram& program, RemotePtr at);
  struct Progress {
    enum class Kind {
      kRunning,    // nothing has happened
      kStopped,    // its group was stopped by `signal`; it goes on by itself when that is over
      kContinued,  // that is over
      kEnded,
    };
    Kind kind;
    int signal = 0;
  };
  // What has happened; to be called until it says kRunning or kEnded, after each SIGCHLD.
  Progress poll();
  // Waits until the program has ended; interrupt_program() ends the system call that it sleeps in.
  void finish_program() { await_end(false); }
  void interrupt_program() { await_end(true); }
  ProgramRun results() const { return take_results(*started_, started_at_); }

  // run() in parts, so that other threads can run theirs meanwhile: the program is added to
  // `memory`, which the caller writes before begin(). From there on, and after an await_begun()
  // that threw, it may only be removed. Its results lie at program_address(). Where the program
  // has ended the thread stays; it would leave from there as it does when nothing runs.
  void add_program(const SyscallProgram& program, ScatteredMemory& memory);
  void begin();
  void await_begun();
  RemotePtr program_address() const { return programs_; }
  // The StubProgram that it leaves by when nothing runs.
  RemotePtr idle_program() const { return idle_program_; }
  // The first half of remove(), of one with a host.
  void begin_to_remove();

  // Undo steps that every program has from now on behind its own: what the thread does before it
  // goes on, if its tracer dies. Arguments are plain values; the first is a system call.
  void set_farewell(const SyscallProgram& undo_steps);
  bool has_farewell() const { return farewell_.has_undo(); }
  // For a program that is to decide for good, tracer or not: it has no undo steps but its own. To
  // be followed by leave(), after which the thread has the state that the program's frame gave it,
  // and which remove() gives it: that of `as`.
  ProgramRun try_run_last(const SyscallProgram& program);
  void leave(const Registers& as);

  // Parts of the data pages that outlive one run: for the programs and stacks of threads.
  RemotePtr allocate(std::size_t size);
  // For a program that start() is to run, with the farewell that it has now.
  RemotePtr allocate_for(const SyscallProgram& program);
  // Where the next program will lie, of at most `size` bytes: its StubProgram.
  RemotePtr next_program(std::size_t size);
  // Where more room is from now on. The one of before is returned.
  Place set_place(Place place) { return std::exchange(place_, std::move(place)); }
  RemotePtr code_address() const { return area_; }
  RemotePtr entry_address() const;
  RemotePtr area() const { return area_; }
  std::uint64_t area_size() const { return area_size_; }
  // All that is mapped for it: the area first.
  std::vector<Room> rooms() const;
  // Whether a VMA is its own. Those that lie next to each other may be one.
  bool owns(const kernel::Vma& vma) const;

  // What the thread was when it was stopped, as the tracer read it.
  const ThreadState& original() const { return original_; }
  pid_t pid() const { return pid_; }
  // As the process sees itself.
  std::uint32_t own_pid() const { return own_pid_; }
  std::uint32_t own_tid() const { return own_tid_; }
  // Of another thread of it.
  std::uint32_t own_tid_of(pid_t tid) const;
  TracedThread& thread() { return thread_; }
  int stop_signal() const { return stop_signal_; }

  // Gives everything back; the thread stays stopped, with its original registers.
  void remove();
  // Unmaps the stub's pages and gives the thread another state, for a process that has become
  // another one. Only for a process that dies with its tracer (PTRACE_O_EXITKILL).
  void replace_with(const ThreadState& state);
  // The process is another one now or has ended: there is nothing to give back.
  void abandon() { installed_ = false; }

 private:
  void enter_safe_state();
  void leave_stack();
  void restore_state();
  void install(const Options& options);
  std::int64_t map_code(std::uint64_t size);
  std::int64_t borrow_system_call(long number, const std::uint64_t (&arguments)[6]);
  void lay_exit(RemotePtr at, std::size_t frame_size);
  void lay_guest_exit(Room room);
  void add_exit(ScatteredMemory& memory) const;
  void set_idle();
  void block_signals();
  WaitStatus resume_until_stop(int request);
  WaitStatus resume_until_stop(int request, const std::function<void()>& meanwhile);
  WaitStatus note(WaitStatus status);
  int request_to_end() const;
  WaitStatus await_program_end(WaitStatus status, const std::function<void()>& meanwhile = {});
  WaitStatus resume_to_end(const std::function<void()>& meanwhile = {});
  bool at_end(const WaitStatus& status) const;
  bool at_end_of_started(const WaitStatus& status) const;
  Progress answer(const WaitStatus& status);
  void await_end(bool interrupt);
  void interrupt_at_stop();
  StubProgram header() const;
  void make_room(std::uint64_t size);
  std::int64_t unmap_rooms();
  void load(const SyscallProgram& program);
  void set_to_start(RemotePtr program);
  RemotePtr stop_address() const;
  bool is_at_stop(const Registers& registers) const;
  SyscallProgram with_farewell(const SyscallProgram& program) const;
  ProgramRun run_loaded(const SyscallProgram& program);
  ProgramRun take_results(const SyscallProgram& program, RemotePtr address) const;
  void choose_stop_signal(std::uint64_t awaited_signals);
  void take_stop_signal(std::uint64_t taken);
  void await_system_call_stop(bool entry);

  TracedThread& thread_;
  pid_t pid_;
  ThreadState original_;
  RemotePtr sigreturn_;    // the libc's instructions
  RemotePtr stack_frame_;  // the frame on the thread's stack
  std::vector<std::byte> stack_bytes_;
  RemotePtr area_;
  std::uint64_t area_size_ = 0;
  RemotePtr frame_;  // the frame in the stub's pages
  RemotePtr stack_top_;
  RemotePtr idle_program_;
  RemotePtr own_idle_program_;  // before any other one's end was it
  RemotePtr hold_;              // of a guest
  RemotePtr programs_;          // where the next program is loaded
  RemotePtr programs_end_;
  std::vector<Room> more_rooms_;  // the lender's
  Place place_;
  SyscallProgram farewell_;
  std::optional<SyscallProgram> started_;
  RemotePtr started_at_;
  bool listening_ = false;  // in a group stop
  int stop_signal_ = 0;
  std::uint32_t own_pid_ = 0;  // as the process itself sees them
  std::uint32_t own_tid_ = 0;
  bool has_other_ids_ = false;       // than here
  std::uint64_t group_signals_ = 0;  // caught, or pending for the process, when it came
  bool installed_ = false;
  Stub* lender_ = nullptr;   // whose pages these are
  bool running_ = false;     // between begin() and finish()
  bool removing_ = false;    // between begin_to_remove() and remove()
  int stop_to_deliver_ = 0;  // SIGSTOP, which it has stopped for
};

}  // namespace telefork::tracee
