#include "net/tls_context.h"

#include <openssl/err.h>
#include <openssl/x509.h>

#include "base/error.h"

namespace telefork::net {
namespace {

// Both have the hash that the secret is bound to. ChaCha20 first: it is fast on every CPU.
constexpr const char* kCiphers = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
constexpr unsigned char kCipherOfSecret[] = {0x13, 0x03};  // RFC 8446, B.4
constexpr unsigned char kContext[] = {'t', 'f'};
constexpr std::string_view kNameOfSecret = "telefork bulk";

void must(bool done) {
  if (!done) throw Error(Code::kUnsupported, "setting up TLS: " + take_ssl_errors());
}

TlsHandshake& handshake_of(const SSL* ssl) {
  return *static_cast<TlsHandshake*>(SSL_get_app_data(ssl));
}

// In the place of all that X.509 knows of chains, names and dates. 1: go on.
int verify_certificate(X509_STORE_CTX* store, void*) {
  const auto* ssl = static_cast<const SSL*>(
      ::X509_STORE_CTX_get_ex_data(store, ::SSL_get_ex_data_X509_STORE_CTX_idx()));
  TlsHandshake& handshake = handshake_of(ssl);
  const X509* certificate = ::X509_STORE_CTX_get0_cert(store);
  handshake.peer =
      certificate == nullptr ? std::nullopt : try_public_key(::X509_get0_pubkey(certificate));
  if (handshake.peer) {
    try {
      // No exception may pass through OpenSSL's frames.
      if (handshake.check_peer) handshake.check_peer(*handshake.peer);
      return 1;
    } catch (...) {
      handshake.refusal = std::current_exception();
    }
  }
  ::X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
  return 0;
}

SSL_SESSION* make_session(SSL* ssl) {
  std::span<const std::byte> secret = handshake_of(ssl).secret;
  SSL_SESSION* session = ::SSL_SESSION_new();
  const SSL_CIPHER* cipher = ::SSL_CIPHER_find(ssl, kCipherOfSecret);
  if (session != nullptr && cipher != nullptr &&
      ::SSL_SESSION_set1_master_key(session, reinterpret_cast<const unsigned char*>(secret.data()),
                                    secret.size()) == 1 &&
      ::SSL_SESSION_set_cipher(session, cipher) == 1 &&
      ::SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1) {
    return session;
  }
  ::SSL_SESSION_free(session);
  return nullptr;
}

// Nothing of the session where it cannot be made: then the handshake fails.
int use_secret(SSL* ssl, const EVP_MD*, const unsigned char** name, std::size_t* size,
               SSL_SESSION** session) {
  *name = reinterpret_cast<const unsigned char*>(kNameOfSecret.data());
  *size = kNameOfSecret.size();
  *session = make_session(ssl);
  return *session != nullptr ? 1 : 0;
}

int find_secret(SSL* ssl, const unsigned char* name, std::size_t size, SSL_SESSION** session) {
  bool known = kNameOfSecret == std::string_view(reinterpret_cast<const char*>(name), size);
  *session = known ? make_session(ssl) : nullptr;
  return 1;
}

SslPtr make_ssl(TlsRole role, TlsHandshake& handshake, int verify) {
  std::unique_ptr<SSL_CTX, decltype(&::SSL_CTX_free)> context(::SSL_CTX_new(::TLS_method()),
                                                              ::SSL_CTX_free);
  must(context != nullptr);
  SSL_CTX* made = context.get();
  must(SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION) == 1 &&
       SSL_CTX_set_max_proto_version(made, TLS1_3_VERSION) == 1 &&
       ::SSL_CTX_set_ciphersuites(made, kCiphers) == 1 &&
       SSL_CTX_set1_groups_list(made, "X25519:P-256") == 1 &&
       SSL_CTX_set1_sigalgs_list(made, "ed25519") == 1 &&
       SSL_CTX_set1_client_sigalgs_list(made, "ed25519") == 1 &&
       ::SSL_CTX_set_num_tickets(made, 0) == 1 && ::SSL_CTX_set_max_early_data(made, 0) == 1);
  ::SSL_CTX_set_options(made, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_session_cache_mode(made, SSL_SESS_CACHE_OFF);
  ::SSL_CTX_set_verify(made, verify, nullptr);
  ::SSL_CTX_set_cert_verify_callback(made, verify_certificate, nullptr);
  SslPtr ssl(::SSL_new(made), ::SSL_free);
  must(ssl != nullptr);
  SSL_set_app_data(ssl.get(), &handshake);
  if (role == TlsRole::kClient) {
    ::SSL_set_connect_state(ssl.get());
  } else {
    ::SSL_set_accept_state(ssl.get());
    // Without one OpenSSL takes no secret where it also asks for certificates.
    must(::SSL_set_session_id_context(ssl.get(), kContext, sizeof(kContext)) == 1);
  }
  return ssl;
}

}  // namespace

SslPtr make_ssl(TlsRole role, const Identity& own, TlsHandshake& handshake) {
  SslPtr ssl = make_ssl(role, handshake, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT);
  // Of this one SSL, so that SSL_certs_clear() leaves nothing of them.
  must(::SSL_use_certificate(ssl.get(), own.certificate()) == 1 &&
       ::SSL_use_PrivateKey(ssl.get(), own.private_key()) == 1);
  return ssl;
}

SslPtr make_ssl_with_secret(TlsRole role, TlsHandshake& handshake) {
  // A certificate would be another way in: verify_certificate() takes none, as nobody's key is
  // the right one here.
  handshake.check_peer = [](const PublicKey&) {
    throw Error(Code::kUnauthorised, "the other end does not know the session's secret");
  };
  SslPtr ssl = make_ssl(role, handshake, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT);
  ::SSL_set_psk_use_session_callback(ssl.get(), use_secret);
  ::SSL_set_psk_find_session_callback(ssl.get(), find_secret);
  return ssl;
}

std::string take_ssl_errors() {
  std::string text;
  while (unsigned long code = ::ERR_get_error()) {
    const char* reason = ::ERR_reason_error_string(code);
    if (!text.empty()) text += ", ";
    text += reason != nullptr ? reason : "error " + std::to_string(code);
  }
  return text.empty() ? "unknown error" : text;
}

}  // namespace telefork::net
