// One end's private key and the certificate that TLS wants around its public key.
//
//     Identity::make().save(folder);                   key.pem and cert.pem, both 0600
//     Identity own = Identity::load(folder);
//     own.key().text()                                 what the other end has to trust
//
// Nothing in the certificate but the key counts for anybody: it is valid for ever, for clocks that
// were never set as well.
#pragma once

#include <memory>
#include <string>

#include "net/public_key.h"

// As <openssl/types.h> has them, which nobody else needs to see.
struct evp_pkey_st;
struct x509_st;

namespace telefork::net {

class Identity {
 public:
  static Identity make();
  // Throws kFailed with ENOENT where there is no key, kUnauthorised with the remedy where others
  // could have read or written it (guarded_file.h), and where the files are damaged, do not belong
  // together, or the certificate is missing.
  static Identity load(const std::string& folder);
  // Makes the certificate of the key that is there, over whatever is in its place. The key stays.
  static Identity mend(const std::string& folder);
  // Over what is there; the folder is made where it is missing.
  void save(const std::string& folder) const;
  // Not over a key that is there: false then, and nothing is changed.
  bool save_as_first(const std::string& folder) const;

  static std::string key_path(const std::string& folder) { return folder + "/key.pem"; }
  static std::string certificate_path(const std::string& folder) { return folder + "/cert.pem"; }

  const PublicKey& key() const { return public_; }
  // Forgets the private key; OpenSSL overwrites it with zeros when nobody else has it.
  void wipe() { private_.reset(); }

  evp_pkey_st* private_key() const { return private_.get(); }
  x509_st* certificate() const { return certificate_.get(); }

 private:
  Identity(std::shared_ptr<evp_pkey_st> key, std::shared_ptr<x509_st> certificate);
  void write(const std::string& folder) const;
  void write_certificate(const std::string& folder) const;

  std::shared_ptr<evp_pkey_st> private_;
  std::shared_ptr<x509_st> certificate_;
  PublicKey public_;
};

// Of an Ed25519 key; empty for any other kind.
std::optional<PublicKey> try_public_key(const evp_pkey_st* key);

}  // namespace telefork::net
