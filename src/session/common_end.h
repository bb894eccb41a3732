// One word that decides for several parked processes at once: what becomes of those that are still
// parked if their tracer dies.
//
//     CommonEnd end;
//     int number = give_fds(stub, ours, theirs, {end.fd()})   // into each of them
//     parked.set_undo(end.undo(number, pid));
//     ... here they go on when the lease is over ...
//     end.decide();
//     ... here they end, whichever of them has been changed into something else by now ...
//
// It is the position of an open file that all of them have: one lseek(2) sets it for all, and the
// first thing that each of them does without its tracer is to read it, and to send itself the
// signal of that number, which is none as long as nothing is decided.
#pragma once

#include <sys/types.h>

#include "base/unique_fd.h"
#include "tracee/syscall_program.h"

namespace telefork::session {

// Owned by one thread.
class CommonEnd {
 public:
  CommonEnd();
  int fd() const { return file_.get(); }
  void decide();
  bool decided() const { return decided_; }
  // For the process `pid`, as it sees itself, that has the file as descriptor `number`.
  static tracee::SyscallProgram undo(int number, pid_t pid);

 private:
  UniqueFd file_;
  bool decided_ = false;
};

}  // namespace telefork::session
