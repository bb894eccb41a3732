#include "net/private_key.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <openssl/crypto.h>
#include <openssl/evp.h>

namespace telefork::net {
namespace {

constexpr std::string_view kBegin = "-----BEGIN PRIVATE KEY-----\n";
constexpr std::string_view kEnd = "\n-----END PRIVATE KEY-----\n";
constexpr std::size_t kEncoded = 64;
constexpr std::size_t kSeed = 32;
// SEQUENCE { INTEGER 0, SEQUENCE { OID 1.3.101.112 }, OCTET STRING { OCTET STRING of 32 } }
constexpr std::array<unsigned char, 16> kHeader = {0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06,
                                                   0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20};

// Overwritten in the end.
struct Decoded {
  std::array<unsigned char, kHeader.size() + kSeed> bytes{};
  Decoded() = default;
  Decoded(const Decoded&) = delete;
  Decoded& operator=(const Decoded&) = delete;
  ~Decoded() { ::OPENSSL_cleanse(bytes.data(), bytes.size()); }
};

}  // namespace

std::shared_ptr<EVP_PKEY> try_parse_private_key(std::span<const std::byte> text) {
  std::string_view rest(reinterpret_cast<const char*>(text.data()), text.size());
  if (rest.size() != kBegin.size() + kEncoded + kEnd.size() || !rest.starts_with(kBegin) ||
      !rest.ends_with(kEnd)) {
    return nullptr;
  }
  const auto* encoded = reinterpret_cast<const unsigned char*>(rest.data() + kBegin.size());
  Decoded decoded;
  if (::EVP_DecodeBlock(decoded.bytes.data(), encoded, static_cast<int>(kEncoded)) !=
          static_cast<int>(decoded.bytes.size()) ||
      !std::equal(kHeader.begin(), kHeader.end(), decoded.bytes.begin())) {
    return nullptr;
  }
  return {::EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr,
                                         decoded.bytes.data() + kHeader.size(), kSeed),
          ::EVP_PKEY_free};
}

}  // namespace telefork::net
