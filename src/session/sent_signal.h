// A signal that was sent to the process at one end, for the one at the other.
#pragma once

#include <csignal>
#include <cstring>
#include <utility>

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

// To be sent as `signal`. `to_group`: also to others of its process group there.
inline void fill_signal(const siginfo_t& info, bool to_group,
                        protocol::schema::Signal::Builder signal) {
  signal.setNumber(static_cast<std::uint32_t>(info.si_signo));
  signal.setFromTerminal(to_group);
  if (info.si_code != SI_QUEUE) return;
  signal.setSiginfo(::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(&info), sizeof(info)));
}

// The kernel's own: a terminal's signals go to the whole foreground group.
inline bool is_from_terminal(const siginfo_t& info) { return info.si_code == SI_KERNEL; }

// Of one pid at home: which of its signals are for the whole group there.
class GroupSignals {
 public:
  bool is_to_group(int number, bool from_terminal) {
    if (number == SIGTSTP || number == SIGTTIN || number == SIGTTOU) {
      stopped_by_terminal_ = from_terminal;
    } else if (number == SIGCONT && std::exchange(stopped_by_terminal_, false)) {
      // A shell continues a job by killpg(2), which cannot be told from kill(2): all that the
      // terminal has stopped goes on.
      return true;
    }
    return from_terminal;
  }

 private:
  bool stopped_by_terminal_ = false;
};

inline siginfo_t plain_signal(int number) {
  siginfo_t info{};
  info.si_signo = number;
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
