// The signals that have come at home and are not sent yet, and which of them go as one.
//
//     if (owed.add({pid, group, SIGTERM, false, info})) ...    // ask the others of the group
//     for (const OwedSignals::Batch& batch : owed.take()) ...  // one message each
//     send_signals(owed, link);                                // which does just that
//
// A signal to a process group is pending at all of it before any of it runs on (kernel/signal.c:
// __kill_pgrp_info). Its deputies hand it on one by one; sent one by one, the first could end
// there, and the others with it, before the last has it: a shell would hear of a pipeline's end
// what it would not have heard here.
#pragma once

#include <optional>
#include <vector>

#include <sys/signalfd.h>
#include <sys/types.h>

#include "protocol/link.h"

namespace telefork::session {

class OwedSignals {
 public:
  struct Signal {
    pid_t guest_pid = 0;  // as it sees itself; 0: the first
    pid_t group = 0;      // at home; 0: to be sent by itself
    int number = 0;
    bool to_group = false;                 // see GroupSignals
    std::optional<signalfd_siginfo> info;  // nothing: of telefork's own
  };
  struct Batch {
    Signal signal;
    std::vector<pid_t> others;  // who have it too
  };

  // Whether it is the first such one of its group: the others' is pending, or will not come.
  bool add(const Signal& signal);
  bool empty() const { return signals_.empty(); }
  // All of them, and each process's in the order in which they came.
  std::vector<Batch> take();

 private:
  std::vector<Signal> signals_;
};

void send_signals(OwedSignals& owed, protocol::Link& link);

}  // namespace telefork::session
