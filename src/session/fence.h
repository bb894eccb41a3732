// How home comes to know that nothing of a session runs at its node any more, when its link is
// lost: whoever is there ends what is left, and says so when it is gone.
//
//     home --Hello {fence, token}--> telepad   kills the keeper, then what it leaves, again and
//                                              again until nothing is left and all is reaped
//          <--------- HelloReply ---           only then
//
// A private telepad (`local`) descends from this process, which is the subreaper of all that it
// started: there home does the same itself, whoever of them has been killed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <poll.h>

#include "net/address.h"
#include "net/deadline.h"
#include "protocol/machine.h"
#include "session/node_link.h"

namespace telefork::session {

class Fence {
 public:
  Fence() = default;
  Fence(const Fence&) = delete;
  Fence& operator=(const Fence&) = delete;
  virtual ~Fence() = default;

  // Asks, or looks whether there is an answer; true once nothing runs there. Never throws: nobody
  // there is no answer. To be called again when an entry is ready, a child has changed, or
  // kFenceInterval has passed.
  virtual bool try_confirm() noexcept = 0;
  virtual void add_interest(std::vector<pollfd>& entries) const = 0;
  // Who is there now knows nothing of it, and never will: why. Else empty.
  virtual std::string why_never() const { return {}; }
};

inline constexpr std::chrono::milliseconds kFenceInterval(200);
// A node that answers is given so long at least, though the lease is over: the keeper may have been
// kept from holding it.
inline constexpr std::chrono::seconds kFencePatience(5);

// Of the session that open_node() has opened. `here` must outlive it. `registry`: the folder of it,
// see registry.h. Null where nobody is left to ask: over ssh the telepad was the session's own, and
// goes with it.
std::unique_ptr<Fence> make_fence(const OpenedNode& opened, const protocol::OwnMachine& here,
                                  const std::string& registry);

// What another process would need to ask, when this one has ended: a secret, as one line. Empty
// where nobody could be asked then: a private telepad, and one over ssh, end with this process.
std::string make_fence_key(const OpenedNode& opened);
// Null where the key is none.
std::unique_ptr<Fence> make_fence(const net::NodeAddress& node, const NodeAccess& access,
                                  const protocol::OwnMachine& here, const std::string& key);

// How long to ask, from now on.
net::Deadline::Clock::time_point fence_deadline(net::Deadline::Clock::time_point lease_over);
// Waits for it: false when nobody has confirmed it in time, or when it is not wanted any more. A
// null fence is one that nobody ever confirms.
bool await_fence(Fence* fence, net::Deadline deadline, const std::function<bool()>& is_wanted);

}  // namespace telefork::session
