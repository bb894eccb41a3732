// `telefork resume`: what is held here, whole, is taken up again. A move gives its process up
// before it says go, and does not make it the deputy before it runs there; in between it is parked.
// If then the session process is killed, or cannot find out where it is, nobody is left to let it
// go on:
//
//     resume --fence--> telepad     kills the keeper and all that it has left; says so
//        |------------------------> the parked one goes on as it was
//
// Two never run: it goes on only when nothing of it runs there, by the node's word or by its lease.
// Of several that went together all go on, whichever of them is named; one that was killed
// meanwhile has ended, and the others see that as ever.
//
//     Resumption resumption(folders, pid, access);
//     ResumeReport report = resumption.run();     // it runs on here
//
// Owned by one thread. What it does may be given up at any time.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <sys/types.h>

#include "protocol/machine.h"
#include "session/node_connector.h"
#include "session/registry.h"

namespace telefork::session {

struct ResumeReport {
  pid_t pid = 0;              // the first of those that run on
  std::size_t processes = 0;  // so many are there
  std::string node;
  // How it is known that nothing of it runs there: its node has confirmed it; its lease is over; or
  // its session process, which was there still, has found out.
  enum class KnownBy { kNode, kLease, kSession } known_by = KnownBy::kNode;
  std::chrono::nanoseconds lost{0};  // it goes on as it was so long ago
};

class Resumption {
 public:
  struct Settings {
    std::vector<std::string> registries;
    NodeAccess access;
    // Told once when its session process is there still, and to find out by itself.
    std::function<void(const SessionInfo&)> on_wait_for_session;
    // Told once when only the end of the lease can let it go on.
    std::function<void(const SessionInfo&)> on_wait_for_lease;
  };
  Resumption(Settings settings, pid_t pid) : settings_(std::move(settings)), pid_(pid) {}

  // kRefused where nothing of it is held here, with what leads on; kUnreachable where its node
  // cannot be asked and no lease will be over: it is held as before. kGone where it has ended.
  ResumeReport run();

 private:
  SessionInfo await_settled(ResumeReport& report);
  void take_up(const SessionInfo& info, ResumeReport& report);

  Settings settings_;
  pid_t pid_;
  std::set<pid_t> released_;
  protocol::OwnMachine here_;
};

}  // namespace telefork::session
