#include "net/identity.h"

#include <cerrno>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "net/guarded_file.h"
#include "net/private_key.h"
#include "net/testing_folder.h"
#include "net/testing_memory.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;

using AnIdentity = InTestFolder;
using AKey = InTestFolder;

TEST_F(AKey, IsReadAsItIsWritten) {
  PublicKey key = Identity::make().key();
  EXPECT_EQ(parse_key(key.text()), key);
  EXPECT_THAT(key.text(), ::testing::MatchesRegex("tf1:[A-Za-z0-9+/]+="));
}

TEST_F(AKey, IsRefusedInAnyOtherForm) {
  std::string text = Identity::make().key().text();
  std::string loose = text;
  loose[loose.size() - 2] = loose[loose.size() - 2] == 'B' ? 'C' : 'B';  // unused bits
  for (const std::string& wrong :
       {std::string(), text.substr(1), text + "=", text + " ", text.substr(0, text.size() - 1),
        "TF1" + text.substr(3), "tf2" + text.substr(3), loose, std::string("tf1:")}) {
    EXPECT_EQ(try_parse_key(wrong), std::nullopt) << wrong;
    EXPECT_EQ(error_of([&] { parse_key(wrong); }).code(), Code::kUsage);
  }
}

TEST_F(AnIdentity, IsLoadedAsItWasSaved) {
  Identity made = Identity::make();
  made.save(path("new"));
  EXPECT_EQ(Identity::load(path("new")).key(), made.key());
  EXPECT_NE(Identity::make().key(), made.key());
}

TEST_F(AnIdentity, IsNobodyElsesToRead) {
  Identity::make().save(path("new"));
  EXPECT_EQ(mode_of("new"), 0700U);
  EXPECT_EQ(mode_of("new/key.pem"), 0600U);
  EXPECT_EQ(mode_of("new/cert.pem"), 0600U);
}

TEST_F(AnIdentity, ThatIsMissingSaysSo) {
  Error error = error_of([&] { Identity::load(path("none")); });
  EXPECT_EQ(error.error(), ENOENT);
  EXPECT_THAT(error.text(), HasSubstr(path("none/key.pem")));
}

TEST_F(AnIdentity, IsRefusedByNameWhereOthersCouldHaveItOrPutAnotherInItsPlace) {
  Identity::make().save(path("new"));
  for (const char* file : {"new/key.pem", "new/cert.pem"}) {
    for (unsigned mode : {0640U, 0604U, 0620U, 0602U, 0666U}) {
      ::chmod(path(file).c_str(), mode);
      Error error = error_of([&] { Identity::load(path("new")); });
      EXPECT_EQ(error.code(), Code::kUnauthorised);
      EXPECT_THAT(error.text(), HasSubstr(path(file)));
      EXPECT_THAT(error.text(), HasSubstr("chmod"));
    }
    ::chmod(path(file).c_str(), 0600);
  }
  ::chmod(path("new").c_str(), 0770);
  EXPECT_EQ(error_of([&] { Identity::load(path("new")); }).code(), Code::kUnauthorised);
  ::chmod(path("new").c_str(), 0755);
  EXPECT_NO_THROW(Identity::load(path("new")));
}

TEST_F(AnIdentity, OfAnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs: root, to give a file away";
  Identity::make().save(path("new"));
  ASSERT_EQ(::chown(path("new/key.pem").c_str(), 1, 1), 0);
  Error error = error_of([&] { Identity::load(path("new")); });
  EXPECT_EQ(error.code(), Code::kUnauthorised);
  EXPECT_THAT(error.text(), HasSubstr("belongs to user 1"));
}

constexpr const char* kNoPem[] = {"", "nothing of that kind\n",
                                  "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"};

TEST_F(AnIdentity, ThatIsDamagedIsRefusedWithTheRemedy) {
  for (const char* content : kNoPem) {
    Identity::make().save(path("new"));
    write("new/key.pem", content);
    Error error = error_of([&] { Identity::load(path("new")); });
    EXPECT_EQ(error.code(), Code::kUnauthorised);
    EXPECT_THAT(error.text(), HasSubstr(path("new/key.pem")));
    EXPECT_THAT(error.text(), HasSubstr("telefork keygen --force --keys " + path("new")));
    EXPECT_EQ(error_of([&] { Identity::mend(path("new")); }).code(), Code::kUnauthorised);
  }
}

// The files of `folder` with another certificate, or none, are refused with the remedy; it keeps
// the key.
void expect_mended(const std::string& folder, const PublicKey& key) {
  Error error = error_of([&] { Identity::load(folder); });
  EXPECT_EQ(error.code(), Code::kUnauthorised);
  EXPECT_EQ(error.error(), 0);
  EXPECT_THAT(error.text(), HasSubstr(folder + "/cert.pem"));
  EXPECT_THAT(error.text(), HasSubstr("telefork keygen --keys " + folder + " makes it"));
  EXPECT_EQ(Identity::mend(folder).key(), key);
  EXPECT_EQ(Identity::load(folder).key(), key);
}

TEST_F(AnIdentity, WithoutItsCertificateIsRefusedUntilItIsMade) {
  Identity made = Identity::make();
  made.save(path("new"));
  ::unlink(path("new/cert.pem").c_str());
  expect_mended(path("new"), made.key());
  EXPECT_EQ(mode_of("new/cert.pem"), 0600U);
}

TEST_F(AnIdentity, WithADamagedCertificateIsRefusedUntilItIsMade) {
  Identity made = Identity::make();
  made.save(path("new"));
  for (const char* content : kNoPem) {
    write("new/cert.pem", content);
    expect_mended(path("new"), made.key());
  }
}

TEST_F(AnIdentity, WithTheCertificateOfAnotherIsRefusedUntilItsOwnIsMade) {
  Identity made = Identity::make();
  made.save(path("one"));
  Identity::make().save(path("other"));
  ASSERT_EQ(::rename(path("other/cert.pem").c_str(), path("one/cert.pem").c_str()), 0);
  EXPECT_THAT(error_of([&] { Identity::load(path("one")); }).text(), HasSubstr("key beside it"));
  expect_mended(path("one"), made.key());
}

TEST_F(AnIdentity, IsNotReadFromWhatIsNoFile) {
  Identity::make().save(path("new"));
  ::unlink(path("new/key.pem").c_str());
  ASSERT_EQ(::mkfifo(path("new/key.pem").c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { Identity::load(path("new")); }).code(), Code::kUnauthorised);
}

// `openssl genpkey -algorithm ed25519`, of OpenSSL 3.0.
constexpr const char* kOfOpenSsl =
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VwBCIEIP7KobxCNQ5tl+GMuxccvTeM8ZVpSCyn5HjAQiIOS/vV\n"
    "-----END PRIVATE KEY-----\n";

std::shared_ptr<EVP_PKEY> try_parse(std::string_view text) {
  return try_parse_private_key(std::as_bytes(std::span(text)));
}

TEST_F(AnIdentity, HasAPrivateKeyInTheOneFormThatIsRead) {
  auto key = try_parse(kOfOpenSsl);
  ASSERT_TRUE(key);
  EXPECT_EQ(try_public_key(key.get())->text(), "tf1:fqeCBmrBntwYymYKa1kwWUTn/zkK4Re13lQ1z9Bw2eY=");
  std::string text = kOfOpenSsl;
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(try_parse(std::string_view(text).substr(0, size))) << size;
  }
  // What the key itself is not made of: its frame and the algorithm.
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (at >= 28 + 21 && at < 28 + 64) continue;
    std::string wrong = text;
    wrong[at] = wrong[at] == 'B' ? 'C' : 'B';
    EXPECT_FALSE(try_parse(wrong)) << at;
  }
  std::string wrong = text;
  wrong[28 + 40] = '*';
  EXPECT_FALSE(try_parse(wrong));
  EXPECT_FALSE(try_parse(text + text));
}

TEST_F(AnIdentity, LeavesNoCopyOfItsPrivateKeyWhenItGoes) {
  Identity::make().save(path("new"));
  Identity::load(path("new"));
  PrivateBytes key(path("new"));
  // Of all memory only `key` still has it.
  EXPECT_EQ(count_in_memory(key.seed()), 1U);
  EXPECT_EQ(count_in_memory(key.encoded()), 1U);
}

TEST_F(AnIdentity, ForgetsItsPrivateKey) {
  Identity identity = Identity::make();
  PublicKey key = identity.key();
  identity.wipe();
  EXPECT_EQ(identity.private_key(), nullptr);
  EXPECT_EQ(identity.key(), key);
}

}  // namespace
}  // namespace telefork::net
