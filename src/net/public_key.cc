#include "net/public_key.h"

#include <algorithm>

#include <fmt/format.h>
#include <openssl/evp.h>

#include "base/error.h"

namespace telefork::net {
namespace {

constexpr std::size_t kEncodedKey = 44;  // base64 of 32 bytes, padding included

}  // namespace

std::string PublicKey::text() const {
  unsigned char encoded[kEncodedKey + 1];
  ::EVP_EncodeBlock(encoded, reinterpret_cast<const unsigned char*>(bytes.data()),
                    static_cast<int>(bytes.size()));
  return std::string(kKeyPrefix) + reinterpret_cast<const char*>(encoded);
}

std::optional<PublicKey> try_parse_key(std::string_view text) {
  if (!text.starts_with(kKeyPrefix)) return std::nullopt;
  std::string encoded(text.substr(kKeyPrefix.size()));
  if (encoded.size() != kEncodedKey) return std::nullopt;
  unsigned char decoded[kEncodedKey];
  // It counts the padding as a byte.
  if (::EVP_DecodeBlock(decoded, reinterpret_cast<const unsigned char*>(encoded.data()),
                        static_cast<int>(kEncodedKey)) != 33) {
    return std::nullopt;
  }
  PublicKey key;
  std::transform(decoded, decoded + key.bytes.size(), key.bytes.begin(),
                 [](unsigned char c) { return static_cast<std::byte>(c); });
  // Other texts stand for the same bytes: unused bits, another padding.
  if (key.text() != text) return std::nullopt;
  return key;
}

PublicKey parse_key(std::string_view text) {
  if (std::optional<PublicKey> key = try_parse_key(text)) return *key;
  throw Error(Code::kUsage, fmt::format("'{}' is no public key: one is {} and {} characters, as "
                                        "`telefork keygen` prints it",
                                        text, kKeyPrefix, kEncodedKey));
}

}  // namespace telefork::net
