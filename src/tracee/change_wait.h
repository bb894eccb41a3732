// Sleeps until something may have happened to a tracee of this thread, where waitpid(2) would not
// wake up for it, or not only.
//
//     ChangeWait changes;
//     while (!has_happened()) changes.await();
//
// It goes by SIGCHLD, which is blocked in this thread meanwhile and has to be in every other one of
// this process. One that comes is taken, though it may be of another child: so it is sent again
// when this is over, if the process had it blocked for somebody to look at. To be made before the
// first look. Owned by the thread that made it.
#pragma once

#include <signal.h>

#include "base/unique_fd.h"

namespace telefork::tracee {

class ChangeWait {
 public:
  ChangeWait();
  ChangeWait(const ChangeWait&) = delete;
  ChangeWait& operator=(const ChangeWait&) = delete;
  ~ChangeWait();

  void await();

 private:
  sigset_t mask_before_;
  UniqueFd fd_;
  bool taken_ = false;
};

}  // namespace telefork::tracee
