// XXH3 over bytes that come in pieces. It finds damage; it does not stop a forger.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

struct XXH3_state_s;

namespace telefork::image {

namespace internal {
struct FreeHashState {
  void operator()(XXH3_state_s* state) const;
};
using HashState = std::unique_ptr<XXH3_state_s, FreeHashState>;
}  // namespace internal

// The checksums of the format.
class Hash64 {
 public:
  explicit Hash64(std::uint64_t seed = 0);
  void reset(std::uint64_t seed = 0);
  void add(std::span<const std::byte> bytes);
  // Of all that was added so far; more may follow.
  std::uint64_t value() const;

 private:
  internal::HashState state_;
};

// The hash of a file's content (FileRef.hash): 16 bytes in XXH3's canonical order.
class Hash128 {
 public:
  Hash128();
  void add(std::span<const std::byte> bytes);
  std::array<std::byte, 16> value() const;

 private:
  internal::HashState state_;
};

// Of bytes that are all there.
std::array<std::byte, 16> hash128(std::span<const std::byte> bytes);

// XXH3-128 under a secret of random bytes. It is no cryptographic hash: chance, and who has made a
// content without the secret for another purpose, does not meet another one's hash; but there are
// pairs of contents that share theirs by a few of all secrets.
class SecretHash {
 public:
  static constexpr std::size_t kSecretSize = 192;
  using Secret = std::array<std::byte, kSecretSize>;

  static Secret make_secret();
  explicit SecretHash(const Secret& secret) : secret_(secret) {}
  std::array<std::byte, 16> of(std::span<const std::byte> bytes) const;

 private:
  Secret secret_;
};

}  // namespace telefork::image
