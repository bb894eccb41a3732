// Where a node is, as a user writes it:
//
//     local                    this machine, by a private telepad
//     host  host:7400  [::1]:7400   TCP with TLS; without a port 7335
//     ssh://host  ssh://user@host   whatever `ssh` makes of it
//     unix:/run/telefork/telepad.sock
//
// Parsing does no I/O: whether a host exists is found when connecting.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace telefork::net {

inline constexpr std::uint16_t kDefaultPort = 7335;

struct NodeAddress {
  enum class Kind { kLocal, kTcp, kSsh, kUnix };
  Kind kind = Kind::kLocal;
  std::string host{};                 // of kTcp and kSsh; an IPv6 address without its brackets
  std::uint16_t port = kDefaultPort;  // of kTcp
  std::string user{};                 // of kSsh; empty: ssh decides
  std::string path{};                 // of kUnix

  // As parse_node() takes it; the port only where it is not the default one.
  std::string text() const;
  bool operator==(const NodeAddress&) const = default;
};

// Throws kUsage that names the text and what is wrong with it.
NodeAddress parse_node(std::string_view text);

}  // namespace telefork::net
