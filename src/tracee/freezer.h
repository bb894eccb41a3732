// Stops every thread of a process and holds it stopped.
//
//     FrozenProcess frozen = FrozenProcess::freeze(pid, options);
//     for (TracedThread& thread : frozen.threads()) ...
//     frozen.thaw();                       // also done by the destructor
//
// Threads begun while the freeze goes on are found too: it ends only when a reading of the thread
// list has nothing new after all that it has are stopped. A thread that is inside the vDSO is
// stepped out of it, since the code there may be another one's when it continues. A thread inside a
// restartable sequence (rseq(2)) is put at its abort handler, as the kernel would do when it goes
// on: whatever a stub runs in it makes the kernel forget that it was inside.
//
// If the tracer dies, the kernel lets every thread go on.
#pragma once

#include <chrono>
#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "kernel/procfs_maps.h"
#include "tracee/change_wait.h"
#include "tracee/stop_watch.h"
#include "tracee/thread.h"

namespace telefork::tracee {

class FrozenProcess {
 public:
  // How long a thread may take to stop. One that computes or sleeps does at once; one that waits
  // for a device or a server of files, for the exec of a child of vfork(2), or in a frozen cgroup
  // of version 1 does not before that is over.
  static constexpr std::chrono::milliseconds kLimit{10'000};

  // `options` are PTRACE_O_*. kGone where the process has ended; kRefused where it cannot be
  // traced, with the reason (a debugger, another user's); kFailed where one of its threads does not
  // stop for so long, or where that is interrupted: then all others run on, and that one does at
  // the latest when the tracer ends.
  static FrozenProcess freeze(pid_t pid, std::uint64_t options,
                              const Patience& patience = {kLimit});

  // The same of one that this thread watches; `events` as StopWatch::hold() has them. It is watched
  // again when it is thawed so, or where this throws.
  static FrozenProcess freeze(StopWatch& watch, std::uint64_t options, const Patience& patience,
                              std::vector<StopWatch::Event>& events);
  void thaw(StopWatch& watch);

  FrozenProcess(FrozenProcess&&) = default;
  ~FrozenProcess() { thaw(); }
  FrozenProcess& operator=(FrozenProcess&&) = delete;

  pid_t pid() const { return pid_; }
  // The leader first; the others by tid.
  std::vector<TracedThread>& threads() { return threads_; }
  TracedThread& leader() { return threads_.front(); }
  // As it was when all were stopped. Of a large process the kernel takes long to tell it.
  const std::vector<kernel::Vma>& map() const { return map_; }
  // What the stub does in it is none of the business of its seccomp filters, if it has any and this
  // process may suspend them (kernel/procfs_task.h): see TracedThread::suspend_seccomp(). For who
  // has to have it end rather than go on when its tracer ends: PTRACE_O_EXITKILL among `more`.
  void suspend_seccomp(std::uint64_t more = 0);
  // A call that the kernel would go on with as restart_syscall(2), and not know again if it is
  // interrupted once more, is made again instead (keep_system_call() in registers.h).
  void make_calls_again();
  // By its id as the process itself sees it; kGone where there is none.
  TracedThread& thread_seen_as(pid_t own_tid);
  // For who traces threads of it besides: the leader's end is told when theirs were seen.
  void expect_more_threads() { leader().set_leads(true); }
  // `last` is let go when all others are: what it does may begin with another tracer.
  void thaw(pid_t last = 0);
  // Ends the process with SIGKILL and waits until it is gone, as far as a tracer sees it: a zombie
  // is left for its parent.
  void kill();
  // The same for one that ends by itself: a thread of it is on its way to exit_group(2).
  void await_end();

 private:
  explicit FrozenProcess(pid_t pid) : pid_(pid) {}
  void freeze_all(std::uint64_t options, ChangeWait& changes);
  bool seize_new_threads(std::uint64_t options, ChangeWait& changes);
  [[noreturn]] void give_up(pid_t tid, const ChangeWait& changes);
  void step_out_of_vdso();
  std::vector<TracedThread*> threads_in_sequences();
  void abort_restartable_sequences();

  pid_t pid_;
  std::vector<TracedThread> threads_;
  std::vector<kernel::Vma> map_;
};

}  // namespace telefork::tracee
