// A signal that was sent to the process at one end, for the one at the other.
#pragma once

#include <csignal>
#include <cstring>

#include <sys/syscall.h>
#include <unistd.h>

#include "protocol/link.h"

namespace telefork::session {

// With what sigqueue(3) gave it. A process that has ended meanwhile is no error.
inline void deliver_signal(pid_t pid, protocol::schema::Signal::Reader signal) {
  auto number = static_cast<int>(signal.getNumber());
  auto bytes = signal.getSiginfo();
  if (bytes.size() == sizeof(siginfo_t)) {
    siginfo_t info;
    std::memcpy(&info, bytes.begin(), sizeof(info));
    // Only what sigqueue(3) made may be queued for another process (kernel/signal.c).
    if (info.si_code == SI_QUEUE && ::syscall(SYS_rt_sigqueueinfo, pid, number, &info) == 0) {
      return;
    }
  }
  ::kill(pid, number);
}

}  // namespace telefork::session
