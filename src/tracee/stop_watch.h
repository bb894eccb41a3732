// Watches a process stop, continue and end without standing in the way of its parent.
//
//     StopWatch watch = StopWatch::seize(pid);
//     for (const StopWatch::Event& event : watch.on_sigchld()) ...      // at every SIGCHLD
//
// A SIGSTOP cannot be caught or blocked, so the only way to learn of one is to be the tracer. The
// process is seized and never interrupted; what it stops for is answered at once:
//
//   signal-delivery-stop -> PTRACE_CONT with the same signal   nothing is kept from the process
//   group-stop           -> PTRACE_LISTEN                      it stays stopped, its real parent
//                                                              sees that (WUNTRACED), and SIGCONT
//                                                              continues it (WCONTINUED)
//   end                  -> reaped here first; only then does its real parent see the end. So
//                           on_sigchld() must be called soon after every SIGCHLD.
//
// When the tracer dies the kernel detaches: a process stopped by a signal stays stopped as it would
// without us, every other one runs. Owned by the thread that made it: only a tracer's own thread
// may wait for its tracees. The pid stays that process's until kEnded was returned, since its end
// has to be reaped here.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "tracee/change_wait.h"
#include "tracee/thread.h"

namespace telefork::tracee {

class StopWatch {
 public:
  struct Event {
    enum class Kind {
      kStopped,    // its group was stopped by `signal`
      kContinued,  // it goes on after kStopped
      kEnded,      // with `wait_status`, as waitpid(2) has it; the last event
    };
    Kind kind;
    int signal = 0;
    int wait_status = 0;
  };

  // Does not stop it. A process that is stopped already gives kStopped.
  static StopWatch seize(pid_t pid);
  // Of one that was watched before, and `stopped` when it was last heard of: `events` are what is
  // different since. pid() is 0 where it has ended.
  static StopWatch seize_again(pid_t pid, bool stopped, ChangeWait& changes,
                               std::vector<Event>& events);
  // Of a process that this thread has seized before (as TracedThread does) and that is not in a
  // stop that somebody has waited for.
  static StopWatch adopt(pid_t pid) { return StopWatch(pid); }
  // Lets a process run that stands still in a stop of this thread's making, to be adopted. It stops
  // once more before it does anything: that stop says whether a SIGSTOP to it is still in force,
  // and whoever watches it is to see that too.
  static void begin(TracedThread& leader);
  // The same without letting it run: whether a stop is in force its in_group_stop() says.
  static void settle(TracedThread& leader);

  StopWatch(StopWatch&& other) noexcept;
  StopWatch& operator=(StopWatch&&) = delete;
  StopWatch(const StopWatch&) = delete;
  StopWatch& operator=(const StopWatch&) = delete;
  // Detaches: a process that is stopped by a signal stays so, every other one runs on.
  ~StopWatch();

  // It is another's from now on, who traces it in this thread too (TracedThread::take_over).
  pid_t release() { return std::exchange(pid_, 0); }
  // And is watched again.
  void take_back(pid_t pid) { pid_ = pid; }

  // Stops it, for who looks into it: `events` are what has happened up to then. Empty where it has
  // ended, which is the last of these, or where the first thread alone has. It is not watched until
  // go_on(). kFailed where the patience is at its end: then it is watched still.
  std::optional<TracedThread> hold(ChangeWait& changes, std::vector<Event>& events);
  // The other threads of `leader`'s process run on by now. Where it was killed its end is seen by
  // who waits for it.
  void go_on(TracedThread leader);

  // 0 after kEnded.
  pid_t pid() const { return pid_; }
  bool stopped() const { return stopped_; }
  // What has happened since the last call; does not block.
  std::vector<Event> on_sigchld();
  // The same of one thing that has happened, for who waits for several processes at once: `status`
  // is what waitpid(2) has given of this one.
  std::vector<Event> take(int status);

 private:
  explicit StopWatch(pid_t pid) : pid_(pid) {}
  void answer(int status, std::vector<Event>& events);
  void detach();

  pid_t pid_ = 0;
  bool stopped_ = false;
};

}  // namespace telefork::tracee
