// Sleeps until something may have happened to a tracee of this thread, where waitpid(2) would not
// wake up for it, or not only.
//
//     ChangeWait changes(patience);
//     while (!has_happened() && changes.await()) {}
//
// It goes by SIGCHLD, which is blocked in this thread meanwhile and has to be in every other one of
// this process. One that comes is taken, though it may be of another child: so it is sent again
// when this is over, if the process had it blocked for somebody to look at. To be made before the
// first look. Owned by the thread that made it.
#pragma once

#include <chrono>
#include <csignal>
#include <functional>
#include <optional>

#include "base/unique_fd.h"

namespace telefork::tracee {

// When a wait is over though nothing has happened.
struct Patience {
  std::optional<std::chrono::milliseconds> limit = {};
  int interrupt_fd = -1;  // readable: `interrupted` is asked, which empties it
  std::function<bool()> interrupted = {};
};

class ChangeWait {
 public:
  explicit ChangeWait(Patience patience = {});
  ChangeWait(const ChangeWait&) = delete;
  ChangeWait& operator=(const ChangeWait&) = delete;
  ~ChangeWait();

  // False: patience is at its end.
  bool await();
  bool interrupted() const { return interrupted_; }

 private:
  using Clock = std::chrono::steady_clock;

  Patience patience_;
  Clock::time_point start_ = Clock::now();
  sigset_t mask_before_;
  UniqueFd fd_;
  bool taken_ = false;
  bool interrupted_ = false;
};

}  // namespace telefork::tracee
