// A connection to a telepad, until it has said what it wants.
//
//     connection --"TFAGENT1"--> kProgram
//                --Hello-------> kHello, and hello() has it
//
// Not a byte more is taken than that: the descriptor is then handed to another process.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "net/public_key.h"
#include "net/stream.h"
#include "protocol/handshake.h"

namespace telefork::session {

enum class Via {
  kSocket,  // of this machine: both ends speak plainly
  kTls,     // by a greeter
  kStdio,   // ssh, which is one stream
};

class Greeting {
 public:
  enum class Progress {
    kWaits,    // for more, until the deadline
    kProgram,  // of this machine, which wants an agent
    kHello,    // of a link
  };

  // Only on a socket of this machine may a program ask.
  Greeting(UniqueFd connection, Via from, uid_t user, std::string name);

  // Takes what is there, and never waits. Throws kLost when nothing more will come or it is late,
  // kCorrupt for what is no greeting.
  Progress advance();
  protocol::ReceivedHello hello() const { return decoder_.hello(); }
  net::Deadline::Clock::time_point deadline() const { return deadline_; }

  UniqueFd fd;
  UniqueFd out;  // of kStdio
  Via via;
  uid_t uid;
  std::string who;
  std::optional<net::PublicKey> key;  // of kTls

 private:
  bool take_preamble();
  bool take_hello();

  protocol::HelloDecoder decoder_;
  net::Deadline::Clock::time_point deadline_;
  bool is_link_;  // a Hello comes, or has begun
};

}  // namespace telefork::session
