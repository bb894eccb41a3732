// A descriptor that is readable when a child has changed or the process is asked to end, for poll
// loops. The signals are blocked in the calling thread from then on.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>

#include <sys/signalfd.h>

#include "base/unique_fd.h"

namespace telefork::session {

class SignalFd {
 public:
  SignalFd(std::initializer_list<int> signals)
      : SignalFd(std::span<const int>(signals.begin(), signals.size())) {}
  explicit SignalFd(std::span<const int> signals);
  int fd() const { return fd_.get(); }
  // The next signal that came; empty when none is left.
  std::optional<signalfd_siginfo> try_read();

 private:
  UniqueFd fd_;
};

}  // namespace telefork::session
