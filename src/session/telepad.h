// The daemon of a node: greets whoever connects and starts a keeper for each session, or an agent
// for each program of this machine.
//
//   connection --"TFAGENT1"--> exec telefork-agent as the program's user
//              --Hello-------> session: exec telefork-keeper as the peer's user
//                              join:    hand the connection to that session's keeper
//                              fence:   kill that session's keeper and all that is left of it, and
//                                       answer when nothing is
//                              query:   say what machine this is
//   TCP connection --> TlsEntrance --------> the same, as the user whose key it is
//
// It never touches an image or a process: what can go wrong with those ends a keeper, not the
// telepad. It is the subreaper of what it starts: what a keeper leaves behind when it is killed is
// killed here, until none of it is left. That is why a fence may be believed.
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "session/kept_images.h"
#include "session/programs.h"

namespace telefork::session {

struct TelepadSettings {
  std::string socket;                 // to listen on; empty: none
  unsigned socket_mode = 0600;        // 0666 for a telepad that serves every user
  std::vector<UniqueFd> connections;  // to serve as if they had been accepted; ends with the last
  UniqueFd input, output;             // one more, as an sshd gives it; ends with it
  std::vector<std::string> listen;    // TCP, "ADDR:PORT"
  std::string keys;                   // the folder of the key for those, and of trusted_keys
  bool keys_are_default = true;       // where `telefork trust` looks by itself
  std::string registry;               // given to keepers; empty: none
  std::string user_registries;        // where a telepad of root makes one for each other user
  KeepLimits keep;                    // of one that listens: of guests that have gone home
  Programs programs;
};

// Returns after SIGTERM or SIGINT, or when it listens nowhere and its last session is over.
void run_telepad(TelepadSettings settings);

}  // namespace telefork::session
