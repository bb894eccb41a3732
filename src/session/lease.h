// How long each end of a session goes on without a word from the other, so that home may act while
// the guest's node cannot be asked: two never run.
//
//     silence     0 ........ stop ............ kill ........................ home
//     the keeper  runs the   | holds it        | has killed it
//                 guest      | stopped         |
//     home        speaks     hush(): says nothing more, and listens    | acts
//
// Home falls silent well before its own time is over. Where only one direction is broken the keeper
// would else hear of home to the end, and its lease would never be over.
#pragma once

#include <algorithm>
#include <chrono>

namespace telefork::session {

struct Lease {
  using Duration = std::chrono::milliseconds;
  Duration stop{10'000};
  Duration kill{60'000};
  Duration home{90'000};

  // As often both ends say that they are there.
  Duration heartbeat() const { return std::min(Duration(2'000), stop / 4); }
  // From then on to its end home has kill, and as much again for the keeper to be late.
  Duration hush() const { return (home - kill) / 2; }
};

// Throws kUsage for one under which two might run: stop, kill and home come in this order, and home
// is later than kill by as much as stop at least.
void check_lease(const Lease& lease);

}  // namespace telefork::session
