// What decides for several parked processes at once: what becomes of those that are still parked if
// their tracer dies.
//
//     CommonEnd end;
//     int number = give_fds(stub, ours, theirs, {end.fd()})   // into each of them
//     parked.set_undo(end.undo(number, pid, parked.held_process().lease));
//     ... here each goes on as its own lease says ...
//     end.set_lease(90s);
//     ... here all wait so long before they go on ...
//     end.decide();
//     ... here they end, whichever of them has been changed into something else by now ...
//
// It is an open file that all of them have. One lseek(2) sets its position, and one pwrite(2) its
// content, for all; the first thing that each of them does without its tracer is to send itself the
// signal whose number the position is, which is none as long as nothing is decided, and to read
// into its lease what the file has, which leaves that alone as long as it has nothing.
#pragma once

#include <chrono>
#include <utility>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "base/unique_fd.h"
#include "tracee/syscall_program.h"

namespace telefork::session {

// Owned by one thread.
class CommonEnd {
 public:
  CommonEnd();
  // That of a process which has waited without its tracer since: `file` is taken from it.
  explicit CommonEnd(UniqueFd file) : file_(std::move(file)) {}
  int fd() const { return file_.get(); }
  // Who waits by then without the tracer has read it, and waits as it was before.
  void set_lease(std::chrono::nanoseconds lease);
  void decide();
  bool decided() const { return decided_; }
  // For the process `pid`, as it sees itself, that has the file as descriptor `number`.
  static tracee::SyscallProgram undo(int number, pid_t pid, RemotePtr lease);

 private:
  UniqueFd file_;
  bool decided_ = false;
};

}  // namespace telefork::session
