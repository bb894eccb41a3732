// The process between one TCP connection and the telepad: what reads TLS before anybody is known.
//
//     peer ==TLS== greeter ==socket pair== telepad, later the keeper
//
// It begins with nothing but the connection and the place of the key. It reads the key, gives up
// root for nobody, shakes hands, reports the peer's public key, has forgotten its own private one,
// and relays plain bytes from then on. It is a program of its own, so that no other session's
// secret was ever in its memory.
//
// The report is its first bytes to the telepad: one that says whether the handshake succeeded, and
// then the key, or why it failed. Where it has no key of its own to show the fault is this
// machine's: the peer is told that there is one by an alert, and no more.
#pragma once

#include <span>
#include <string>

#include "base/unique_fd.h"
#include "net/public_key.h"

namespace telefork::session {

struct GreeterSettings {
  UniqueFd connection;
  UniqueFd telepad;
  std::string keys;  // the folder of key.pem and cert.pem
};

// Returns when both directions have ended.
void run_greeter(GreeterSettings settings);

// ---- The report, at the telepad ----

inline constexpr std::size_t kMaxGreeterReport = 512;
// How long it is to be, as far as what has come tells. A failure may be shorter, and ends with the
// connection.
std::size_t greeter_report_size(std::span<const std::byte> begun);
net::PublicKey decode_greeter_report(std::span<const std::byte> report);
// A failure that concerns whoever looks after this machine, and not the peer.
bool is_fault_of_this_machine(std::span<const std::byte> report);
std::string decode_greeter_failure(std::span<const std::byte> report);

}  // namespace telefork::session
