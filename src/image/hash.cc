#include "image/hash.h"

#include <cerrno>
#include <new>

#include <sys/random.h>

#include <xxhash.h>

#include "base/error.h"

namespace telefork::image {

namespace internal {
void FreeHashState::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }
}  // namespace internal

namespace {
internal::HashState make_state() {
  internal::HashState state(XXH3_createState());
  if (!state) throw std::bad_alloc();
  return state;
}

std::array<std::byte, 16> to_bytes(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::array<std::byte, 16> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte{canonical.digest[i]};
  return bytes;
}
}  // namespace

Hash64::Hash64(std::uint64_t seed) : state_(make_state()) { reset(seed); }

void Hash64::reset(std::uint64_t seed) { XXH3_64bits_reset_withSeed(state_.get(), seed); }

void Hash64::add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
}

std::uint64_t Hash64::value() const { return XXH3_64bits_digest(state_.get()); }

Hash128::Hash128() : state_(make_state()) { XXH3_128bits_reset(state_.get()); }

void Hash128::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
}

std::array<std::byte, 16> Hash128::value() const {
  return to_bytes(XXH3_128bits_digest(state_.get()));
}

std::array<std::byte, 16> hash128(std::span<const std::byte> bytes) {
  return to_bytes(XXH3_128bits(bytes.data(), bytes.size()));
}

SecretHash::Secret SecretHash::make_secret() {
  Secret secret;
  // So few bytes come whole (random(4)).
  if (::getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    throw_errno("asking for random bytes", errno);
  }
  return secret;
}

std::array<std::byte, 16> SecretHash::of(std::span<const std::byte> bytes) const {
  return to_bytes(
      XXH3_128bits_withSecret(bytes.data(), bytes.size(), secret_.data(), secret_.size()));
}

}  // namespace telefork::image
