// OpenSSL as telefork uses it: TLS 1.3 and nothing older, no tickets, no early data, no chain of
// certificates. Who is at the other end is told by its public key, or by a secret that both have.
// Only tls_stream.cc needs this, and the floor that it is held against (bench/tls_floor.cc).
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <openssl/ssl.h>

#include "net/identity.h"
#include "net/public_key.h"

namespace telefork::net {

using SslPtr = std::unique_ptr<SSL, decltype(&::SSL_free)>;

// What a handshake is told and tells; lives as long as the handshake.
struct TlsHandshake {
  // Of a client: throws for a key that is not the right one. Called before anything is sent to who
  // has shown it, and again proven by the end of the handshake.
  std::function<void(const PublicKey&)> check_peer;
  std::optional<PublicKey> peer;
  std::exception_ptr refusal;  // what check_peer threw
  std::span<const std::byte> secret;
};

enum class TlsRole { kClient, kServer };

// Both ends show a key.
SslPtr make_ssl(TlsRole role, const Identity& own, TlsHandshake& handshake);
// Both ends prove that they know the secret, which makes the keys together with a fresh exchange
// (psk_dhe_ke): a secret that leaks later opens nothing that was recorded.
SslPtr make_ssl_with_secret(TlsRole role, TlsHandshake& handshake);

// The last errors of OpenSSL in this thread, in words; none are left then.
std::string take_ssl_errors();

}  // namespace telefork::net
