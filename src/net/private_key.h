// The text of key.pem.
//
//     -----BEGIN PRIVATE KEY-----
//     MC4CAQAwBQYDK2VwBCIEI...         one line of 64 characters: PKCS#8 of an Ed25519 key
//     -----END PRIVATE KEY-----        (RFC 8410, 7), which are 48 bytes, 32 of them the key
//
// OpenSSL writes it, and `openssl genpkey -algorithm ed25519` too, but it is read here: what
// OpenSSL decodes on its way from PEM to a key (3.0: PEM_read_bio_PrivateKey) it leaves in memory
// that it frees, once in base64 and five times in binary.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

struct evp_pkey_st;

namespace telefork::net {

// Takes this one form and no other: no pass phrase, no other kind of key. Empty for all else. No
// copy of the key is left but the one within the result, which is overwritten when that is freed.
std::shared_ptr<evp_pkey_st> try_parse_private_key(std::span<const std::byte> text);

}  // namespace telefork::net
