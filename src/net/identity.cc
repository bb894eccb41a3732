#include "net/identity.h"

#include <cerrno>

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "base/error.h"
#include "base/shell_word.h"
#include "net/guarded_file.h"
#include "net/private_key.h"

namespace telefork::net {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&::BIO_free)>;

// What only fails for want of memory.
void must(bool done, const char* doing) {
  if (!done) throw Error(Code::kResources, doing, ENOMEM);
}

Bio make_memory_bio() {
  // What is written to it is overwritten with zeros when it goes.
  Bio bio(::BIO_new(::BIO_s_secmem()), ::BIO_free);
  must(bio != nullptr, "encoding a key");
  return bio;
}

// The same certificate for the same key, whenever it is made.
std::shared_ptr<X509> make_certificate(EVP_PKEY* key) {
  std::shared_ptr<X509> certificate(::X509_new(), ::X509_free);
  X509* made = certificate.get();
  must(made != nullptr, "making a certificate");
  X509_NAME* name = ::X509_get_subject_name(made);
  const auto* text = reinterpret_cast<const unsigned char*>("telefork");
  must(::X509_set_version(made, X509_VERSION_3) == 1 &&
           ::ASN1_INTEGER_set(::X509_get_serialNumber(made), 1) == 1 &&
           ::ASN1_TIME_set_string(::X509_getm_notBefore(made), "19700101000000Z") == 1 &&
           ::ASN1_TIME_set_string(::X509_getm_notAfter(made), "99991231235959Z") == 1 &&
           ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, text, -1, -1, 0) == 1 &&
           ::X509_set_issuer_name(made, name) == 1 && ::X509_set_pubkey(made, key) == 1 &&
           ::X509_sign(made, key, nullptr) > 0,
       "making a certificate");
  return certificate;
}

// Where it is looked for depends on who asks, so that the folder is named.
std::string keygen(const std::string& folder, const char* option = "") {
  return fmt::format("telefork keygen{} --keys {}", option, quote_for_shell(folder));
}

std::shared_ptr<EVP_PKEY> load_key(const std::string& folder) {
  std::string path = Identity::key_path(folder);
  std::shared_ptr<EVP_PKEY> key = try_parse_private_key(read_guarded_secret(path));
  if (!key) {
    throw Error(Code::kUnauthorised, fmt::format("{} holds no Ed25519 key: {} makes another one",
                                                 path, keygen(folder, " --force")));
  }
  return key;
}

// OpenSSL would ask for the pass phrase on the terminal.
int refuse_pass_phrase(char*, int, int, void*) { return -1; }

SecretBytes read_certificate(const std::string& folder) {
  std::string path = Identity::certificate_path(folder);
  try {
    return read_guarded_secret(path);
  } catch (const Error& error) {
    if (error.error() != ENOENT) throw;
    throw Error(Code::kUnauthorised, fmt::format("{} is missing: {} makes it for the key beside it",
                                                 path, keygen(folder)));
  }
}

std::shared_ptr<X509> load_certificate(const std::string& folder, EVP_PKEY* key) {
  SecretBytes content = read_certificate(folder);
  // It takes no null pointer, which an empty file would be.
  content.push_back(std::byte{'\n'});
  Bio bio(::BIO_new_mem_buf(content.data(), static_cast<int>(content.size())), ::BIO_free);
  must(bio != nullptr, "reading a certificate");
  std::shared_ptr<X509> certificate(
      ::PEM_read_bio_X509(bio.get(), nullptr, refuse_pass_phrase, nullptr), ::X509_free);
  if (!certificate || ::X509_check_private_key(certificate.get(), key) != 1) {
    throw Error(Code::kUnauthorised,
                fmt::format("{} {}: {} makes it anew", Identity::certificate_path(folder),
                            certificate ? "is not the certificate of the key beside it"
                                        : "holds no certificate",
                            keygen(folder)));
  }
  return certificate;
}

std::string take_text(BIO* bio) {
  char* data = nullptr;
  long size = ::BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(size)};
}

}  // namespace

std::optional<PublicKey> try_public_key(const EVP_PKEY* key) {
  PublicKey found;
  std::size_t size = found.bytes.size();
  if (key == nullptr || ::EVP_PKEY_get_base_id(key) != EVP_PKEY_ED25519 ||
      ::EVP_PKEY_get_raw_public_key(key, reinterpret_cast<unsigned char*>(found.bytes.data()),
                                    &size) != 1 ||
      size != found.bytes.size()) {
    return std::nullopt;
  }
  return found;
}

Identity::Identity(std::shared_ptr<EVP_PKEY> key, std::shared_ptr<X509> certificate)
    : private_(std::move(key)),
      certificate_(std::move(certificate)),
      public_(try_public_key(private_.get()).value()) {}

Identity Identity::make() {
  std::shared_ptr<EVP_PKEY> key(::EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), ::EVP_PKEY_free);
  must(key != nullptr, "making a key");
  std::shared_ptr<X509> certificate = make_certificate(key.get());
  return {std::move(key), std::move(certificate)};
}

Identity Identity::load(const std::string& folder) {
  std::shared_ptr<EVP_PKEY> key = load_key(folder);
  std::shared_ptr<X509> certificate = load_certificate(folder, key.get());
  return {std::move(key), std::move(certificate)};
}

Identity Identity::mend(const std::string& folder) {
  FolderLock lock(folder);
  std::shared_ptr<EVP_PKEY> key = load_key(folder);
  std::shared_ptr<X509> certificate = make_certificate(key.get());
  Identity identity(std::move(key), std::move(certificate));
  identity.write_certificate(folder);
  return identity;
}

void Identity::save(const std::string& folder) const {
  make_guarded_folder(folder);
  FolderLock lock(folder);
  write(folder);
}

bool Identity::save_as_first(const std::string& folder) const {
  make_guarded_folder(folder);
  FolderLock lock(folder);
  if (::access(key_path(folder).c_str(), F_OK) == 0) return false;
  write(folder);
  return true;
}

// Under the folder's lock.
void Identity::write(const std::string& folder) const {
  Bio key = make_memory_bio();
  must(::PEM_write_bio_PKCS8PrivateKey(key.get(), private_.get(), nullptr, nullptr, 0, nullptr,
                                       nullptr) == 1,
       "encoding a key");
  std::string text = take_text(key.get());
  write_guarded(key_path(folder), text);
  ::OPENSSL_cleanse(text.data(), text.size());
  write_certificate(folder);
}

void Identity::write_certificate(const std::string& folder) const {
  Bio certificate = make_memory_bio();
  must(::PEM_write_bio_X509(certificate.get(), certificate_.get()) == 1, "encoding a certificate");
  write_guarded(certificate_path(folder), take_text(certificate.get()));
}

}  // namespace telefork::net
