// How this user's connections to one node are made, whatever kind of address it has.
//
//     NodeConnector connector(node, access);
//     auto control = connector.connect(deadline);
//     auto bulk = connector.connect_bulk(id, secret, deadline);    // of a TLS session
//
// The first connection decides on the machine where a name stands for several: the others go to the
// same address.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "net/address.h"
#include "net/compression.h"
#include "net/public_key.h"
#include "net/stream.h"
#include "net/tcp_stream.h"

namespace telefork::session {

// What a user's own files and settings say about reaching nodes.
struct NodeAccess {
  std::string keys;                     // the folder of key.pem, cert.pem and known_nodes
  std::string ssh = "ssh";              // the program; without a slash from PATH
  std::string ssh_telepad = "telepad";  // what the node's shell is to start
  std::uint64_t bandwidth = 0;          // of each connection: bytes a second that go there; 0: all
  net::Compression compression = net::Compression::kAutomatic;
  bool compression_required = false;  // where it cannot be had the node is refused
};

// Throws kRefused where it has one that nobody can keep.
void check_bandwidth(const net::NodeAddress& node, const NodeAccess& access);

class NodeConnector {
 public:
  // `node` is not `local`, to which there is nothing to connect.
  NodeConnector(net::NodeAddress node, NodeAccess access);

  // kUnreachable, or kUnauthorised with the command that mends it.
  std::unique_ptr<net::Stream> connect(net::Deadline deadline);
  std::unique_ptr<net::Stream> connect_bulk(std::span<const std::byte> id,
                                            std::span<const std::byte> secret,
                                            net::Deadline deadline);
  const net::NodeAddress& node() const { return node_; }
  // Whether the key that the node has shown is the one that is trusted still.
  bool still_trusts() const;

 private:
  std::unique_ptr<net::Stream> connect_tls(net::Deadline deadline);
  void check_peer(const net::PublicKey& key) const;

  net::NodeAddress node_;
  NodeAccess access_;
  std::vector<net::SocketAddress> addresses_;  // of kTcp, once they were looked up
  std::optional<net::PublicKey> shown_;        // likewise, once it was found to be trusted
};

}  // namespace telefork::session
