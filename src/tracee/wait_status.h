// What waitpid(2) says of a traced thread, with the stops of PTRACE_SEIZE told apart
// (ptrace(2), "Stopped states").
#pragma once

#include <csignal>
#include <cstdint>
#include <string>

#include <sys/ptrace.h>
#include <sys/wait.h>

namespace telefork::tracee {

class WaitStatus {
 public:
  enum class Kind {
    kExited,          // by exit; code()
    kKilled,          // by a signal; signal()
    kSyscallStop,     // at entry to or exit from a system call (PTRACE_O_TRACESYSGOOD)
    kEventStop,       // PTRACE_EVENT_STOP of an interrupt or a new thread
    kGroupStop,       // PTRACE_EVENT_STOP of a stopped thread group; signal() stopped it
    kEvent,           // another PTRACE_EVENT_*; event()
    kSignalDelivery,  // a signal() is about to be delivered
    kContinued,
  };

  explicit WaitStatus(int status) : status_(status) {}

  Kind kind() const {
    if (WIFEXITED(status_)) return Kind::kExited;
    if (WIFSIGNALED(status_)) return Kind::kKilled;
    if (WIFCONTINUED(status_)) return Kind::kContinued;
    if (event() == PTRACE_EVENT_STOP) {
      return stop_signal() == SIGTRAP ? Kind::kEventStop : Kind::kGroupStop;
    }
    if (event() != 0) return Kind::kEvent;
    if (stop_signal() == (SIGTRAP | 0x80)) return Kind::kSyscallStop;
    return Kind::kSignalDelivery;
  }
  // It has, or is about to (PTRACE_O_TRACEEXIT).
  bool ended() const {
    return WIFEXITED(status_) || WIFSIGNALED(status_) || event() == PTRACE_EVENT_EXIT;
  }
  int code() const { return WEXITSTATUS(status_); }
  int signal() const { return WIFSIGNALED(status_) ? WTERMSIG(status_) : stop_signal(); }
  int event() const { return WIFSTOPPED(status_) ? status_ >> 16 : 0; }
  int raw() const { return status_; }
  // "exited with 3", "stopped by signal 19": for messages.
  std::string describe() const;

 private:
  int stop_signal() const { return WSTOPSIG(status_); }
  int status_;
};

}  // namespace telefork::tracee
