// A new connection to the telepad of a node.
#pragma once

#include <memory>

#include "net/address.h"
#include "net/stream.h"

namespace telefork::net {

// unix: only. `local` has nothing to connect to (its caller starts a telepad over a socket pair);
// TCP and ssh are refused by name with kUnsupported until they are built.
std::unique_ptr<Stream> connect(const NodeAddress& address);

}  // namespace telefork::net
