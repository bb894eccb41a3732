// Who somebody is, for telefork: an Ed25519 public key, written on one line.
//
//     tf1:MCowBQYDK2VwAyEA...=        "tf1:" and the 32 bytes in base64
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace telefork::net {

inline constexpr std::string_view kKeyPrefix = "tf1:";

struct PublicKey {
  std::array<std::byte, 32> bytes{};

  std::string text() const;
  auto operator<=>(const PublicKey&) const = default;
};

// Takes only what text() gives.
std::optional<PublicKey> try_parse_key(std::string_view text);
// Throws kUsage that names the text.
PublicKey parse_key(std::string_view text);

}  // namespace telefork::net
