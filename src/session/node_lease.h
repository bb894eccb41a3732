// The node's part of the lease (lease.h), in its poll loop: says that it is there, stops the guest
// and all that has come of it when home is silent, and gives up. Its twin is home_lease.h.
//
//     NodeLease lease(link, members);
//     lease.begin();                                  // the guest runs
//     for (;;) {
//       net::poll_until(entries, net::Deadline::at(lease.next_heartbeat()));
//       while (auto message = link.try_receive()) {
//         lease.let_go_on();                          // before what it says, which may be a stop
//         ...
//       }
//       lease.say_that_we_live();
//       lease.hold();
//     }
//
// Owned by the keeper's thread.
#pragma once

#include <vector>

#include <sys/types.h>

#include "protocol/link.h"
#include "session/guest_members.h"
#include "session/lease.h"

namespace telefork::session {

class NodeLease {
 public:
  using Clock = protocol::Link::Clock;

  // Both outlive it.
  NodeLease(protocol::Link& link, const GuestMembers& members) : link_(link), members_(members) {}

  // What home says of it; 0: as it is.
  void set_terms(Lease::Duration stop, Lease::Duration kill);
  Lease::Duration kill_after() const { return terms_.kill; }

  void begin() { next_heartbeat_ = Clock::now() + terms_.heartbeat(); }
  Clock::time_point next_heartbeat() const { return next_heartbeat_; }
  // If it is time for it.
  bool say_that_we_live();
  // kLost.
  void throw_if_over() const;
  // Stops them, lets them go on, or throws that it is over.
  void hold();
  void let_go_on();
  bool holds() const { return holds_; }

 private:
  void stop();

  protocol::Link& link_;
  const GuestMembers& members_;
  Lease terms_;
  Clock::time_point next_heartbeat_{};
  bool holds_ = false;
  std::vector<pid_t> held_;  // those that ran when it stopped them
};

}  // namespace telefork::session
