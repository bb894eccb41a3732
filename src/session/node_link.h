// A link to a node, whatever kind of address it has.
#pragma once

#include <memory>

#include "net/address.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"
#include "session/node_connector.h"
#include "session/programs.h"

namespace telefork::session {

struct OpenedNode {
  std::unique_ptr<protocol::Link> link;
  protocol::ReceivedHelloReply reply;
  std::shared_ptr<NodeConnector> connector;  // null for `local`
};

// Connects, greets, and checks that a process from here can run there. For `local` a private
// telepad is started over socket pairs; it ends with its last session. This process then is the
// subreaper of all that descends from it.
OpenedNode open_node(const net::NodeAddress& node, const protocol::OwnMachine& here,
                     const Programs& programs, const NodeAccess& access, bool cpu_force);

// A process with other ids than the guest would have there can be no guest there: throws kRefused.
void check_user(pid_t pid, const OpenedNode& node);

}  // namespace telefork::session
