// A signal that was sent to the process at one end, for the one at the other.
#pragma once

#include <csignal>
#include <cstring>

#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "protocol/link.h"

namespace telefork::session {

// As kill(2) or sigqueue(3) made it.
inline siginfo_t sent_siginfo(protocol::schema::Signal::Reader signal) {
  constexpr std::uint32_t kLast = 64;
  if (signal.getNumber() < 1 || signal.getNumber() > kLast) {
    throw Error(Code::kCorrupt, "a signal that was sent has no such number");
  }
  siginfo_t info{};
  auto bytes = signal.getSiginfo();
  if (bytes.size() == sizeof(info)) std::memcpy(&info, bytes.begin(), sizeof(info));
  // Only what sigqueue(3) made may be queued for another process (kernel/signal.c).
  if (info.si_code != SI_QUEUE) info = {};
  info.si_signo = static_cast<int>(signal.getNumber());
  return info;
}

// A process that has ended meanwhile is no error.
inline void deliver_signal(pid_t pid, protocol::schema::Signal::Reader signal) {
  siginfo_t info = sent_siginfo(signal);
  if (info.si_code == SI_QUEUE && ::syscall(SYS_rt_sigqueueinfo, pid, info.si_signo, &info) == 0) {
    return;
  }
  ::kill(pid, info.si_signo);
}

}  // namespace telefork::session
