// A link to a node, whatever kind of address it has.
#pragma once

#include <memory>
#include <string>

#include "capture/survey.h"
#include "kernel/procfs_task.h"
#include "net/address.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"
#include "session/node_connector.h"
#include "session/programs.h"
#include "session/reconnector.h"

namespace telefork::session {

struct OpenedNode {
  std::unique_ptr<protocol::Link> link;
  protocol::ReceivedHelloReply reply;
  std::shared_ptr<NodeConnector> connector;  // null for `local`
  // Of the connections that pages go on; kNone where there is nothing to gain, or none is known
  // there.
  net::Compression compression = net::Compression::kNone;
  // Of connections that are resumable, which are as one: when the control connection was mended the
  // page connection is made anew too. Null: they are not.
  struct Resumable {
    std::shared_ptr<net::ResumableStream::Entrance> control;
    std::weak_ptr<Reconnector> pages;
  };
  std::shared_ptr<Resumable> resumable = {};
};

// Connects, greets, and checks that a process from here can run there. For `local` a private
// telepad is started over socket pairs; it ends with its last session. This process then is the
// subreaper of all that descends from it.
OpenedNode open_node(const net::NodeAddress& node, const protocol::OwnMachine& here,
                     const Programs& programs, const NodeAccess& access, bool cpu_force);

// For the Prepare, and at once behind it: what goes on the bulk connection is compressed.
void say_compression(const OpenedNode& node, protocol::schema::Prepare::Builder prepare);
void begin_compression(const OpenedNode& node);
// The other end of it; `pages` may be null.
void take_compression(protocol::schema::Prepare::Reader prepare, protocol::Link& link,
                      std::unique_ptr<net::Stream>& pages);

// Why the memory of a process cannot follow it there; empty: it can.
std::string why_not_lazy(const OpenedNode& node);
// Opens it: the keeper has it before anything else that is sent on the link from now on.
std::unique_ptr<net::Stream> open_page_connection(const OpenedNode& node);

// A process with other ids than the guest would have there can be no guest there: throws kRefused.
void check_user(const kernel::Status& process, const OpenedNode& node);
// And the root directory that it has.
void check_root(const capture::Survey& process, const OpenedNode& node);

}  // namespace telefork::session
