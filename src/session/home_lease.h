// Home's part of the lease (lease.h), in its poll loop: says that it is there, falls silent in
// time, and gives up.
//
//     HomeLease lease(link, terms);
//     for (;;) {
//       net::poll_until(entries, net::Deadline::at(lease.next_turn()));
//       if (!lease.is_hushed()) ...what tells the node something...
//       lease.take_turn();
//     }
#pragma once

#include <chrono>

#include <fmt/format.h>

#include "base/error.h"
#include "protocol/link.h"
#include "session/lease.h"

namespace telefork::session {

// How soon a terminal's input is read after its reader came to the foreground, which no event
// tells.
inline constexpr std::chrono::milliseconds kInputInterval{200};

class HomeLease {
 public:
  using Clock = protocol::Link::Clock;

  HomeLease(protocol::Link& link, const Lease& terms) : link_(link), terms_(terms) {}

  // It has not heard of the node for so long that the node is not to hear of it.
  bool is_hushed() const { return Clock::now() - link_.last_heard() >= terms_.hush(); }
  Clock::time_point next_turn() const { return next_heartbeat_; }
  // kLost when its time is over.
  void take_turn() {
    auto now = Clock::now();
    auto silence = now - link_.last_heard();
    if (silence >= terms_.home) {
      throw Error(Code::kLost,
                  fmt::format("{}: nothing was heard from it for {:.3g} s", link_.node(),
                              std::chrono::duration<double>(silence).count()));
    }
    if (now < next_heartbeat_) return;
    next_heartbeat_ = now + terms_.heartbeat();
    if (!is_hushed()) link_.send_heartbeat();
  }

 private:
  protocol::Link& link_;
  Lease terms_;
  Clock::time_point next_heartbeat_ = Clock::now();
};

}  // namespace telefork::session
