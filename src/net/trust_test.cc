#include "net/trust.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "net/identity.h"
#include "net/testing_folder.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;

const std::string& key(int number) {
  static const std::string kKeys[] = {Identity::make().key().text(), Identity::make().key().text(),
                                      Identity::make().key().text()};
  return kKeys[number];
}

std::string refusal(KeysFor keys_for, const std::string& text) {
  Error error = error_of([&] { parse_trusted_keys(text, "/f", keys_for); });
  EXPECT_EQ(error.code(), Code::kUnauthorised);
  return error.text();
}

std::string refusal_of_nodes(const std::string& text) {
  Error error = error_of([&] { parse_known_nodes(text, "/f"); });
  EXPECT_EQ(error.code(), Code::kUnauthorised);
  return error.text();
}

TEST(TrustedKeys, AreReadWithTheirUsers) {
  std::string text = "# who\n\n" + key(0) + " eve\n \t" + key(1) + "\t bob-2.x \n" + key(2) + " z";
  auto keys = parse_trusted_keys(text, "/f", KeysFor::kEveryUser);
  ASSERT_EQ(keys.size(), 3U);
  EXPECT_EQ(keys[0].user, "eve");
  EXPECT_EQ(keys[1].user, "bob-2.x");
  EXPECT_EQ(keys[2].user, "z");
  EXPECT_EQ(find_key(keys, parse_key(key(1)))->user, "bob-2.x");
  EXPECT_EQ(find_key(keys, Identity::make().key()), std::nullopt);
}

TEST(TrustedKeys, OfOneUserMayHaveAComment) {
  auto keys =
      parse_trusted_keys(key(0) + "\n" + key(1) + " my laptop, blue\n", "/f", KeysFor::kOneUser);
  ASSERT_EQ(keys.size(), 2U);
  EXPECT_EQ(keys[0].comment, "");
  EXPECT_EQ(keys[1].comment, "my laptop, blue");
}

TEST(TrustedKeys, NameFileAndLineOfWhatIsNotUnderstood) {
  const std::string good = key(0) + " eve\n";
  EXPECT_THAT(refusal(KeysFor::kEveryUser, good + "tf1:x eve\n"), HasSubstr("/f:2: 'tf1:x'"));
  EXPECT_THAT(refusal(KeysFor::kEveryUser, "\n\n" + key(1)),
              HasSubstr("/f:3: the user is missing"));
  EXPECT_THAT(refusal(KeysFor::kEveryUser, key(1) + " eve root\n"),
              HasSubstr("/f:1: 'root' follows"));
  EXPECT_THAT(refusal(KeysFor::kEveryUser, key(1) + " -x\n"), HasSubstr("no user's name"));
  EXPECT_THAT(refusal(KeysFor::kEveryUser, good + good), HasSubstr("/f:2: the key is there twice"));
  EXPECT_THAT(refusal(KeysFor::kOneUser, "x" + key(1)), HasSubstr("is no public key"));
  EXPECT_THAT(refusal(KeysFor::kOneUser, key(1) + std::string("\0", 1)), HasSubstr("control"));
  EXPECT_THAT(refusal(KeysFor::kEveryUser, key(1) + " eve\r\n"), HasSubstr("control"));
}

TEST(KnownNodes, AreFoundHoweverTheyAreWritten) {
  auto nodes =
      parse_known_nodes("node7:7335 " + key(0) + "\n[::1]:81 " + key(1) + " rack 3\n", "/f");
  EXPECT_EQ(find_node(nodes, "node7")->key.text(), key(0));
  EXPECT_EQ(find_node(nodes, "[::1]:81")->comment, "rack 3");
  EXPECT_EQ(find_node(nodes, "node8"), std::nullopt);
}

TEST(KnownNodes, NameFileAndLineOfWhatIsNotUnderstood) {
  EXPECT_THAT(refusal_of_nodes("a " + key(0) + "\na:b " + key(1)), HasSubstr("/f:2: "));
  EXPECT_THAT(refusal_of_nodes("local " + key(0)), HasSubstr("/f:1: local is no HOST"));
  EXPECT_THAT(refusal_of_nodes("ssh://a " + key(0)), HasSubstr("no HOST"));
  EXPECT_THAT(refusal_of_nodes("a"), HasSubstr("'' is no public key"));
  EXPECT_THAT(refusal_of_nodes("a " + key(0) + "\na:7335 " + key(1)), HasSubstr("/f:2: the node"));
}

TEST(TrustFilesThatAreDamaged, NameTheCommandsThatMendThem) {
  Error error = error_of([] { parse_known_nodes("\nhost x\n", "/a b/known_nodes"); });
  EXPECT_EQ(error.text(),
            "/a b/known_nodes:2: 'x' is no public key; sed -i 2d '/a b/known_nodes' takes the line "
            "out, and then telefork trust NODE KEY --keys '/a b' says anew what it was to say");
  error = error_of([] { parse_trusted_keys("x", "/k/trusted_keys", KeysFor::kOneUser); });
  EXPECT_THAT(error.text(), HasSubstr("; sed -i 1d /k/trusted_keys takes the line out, and then "
                                      "telefork trust KEY --keys /k says"));
}

TEST(TrustedKeys, AreChangedWithoutTouchingOtherLines) {
  std::string text = "# mine\n" + key(0) + " eve\n\n" + key(1) + " bob";
  EXPECT_EQ(with_trusted_key(text, parse_key(key(0)), "ann"),
            "# mine\n" + key(0) + " ann\n\n" + key(1) + " bob\n");
  EXPECT_EQ(with_trusted_key(text, parse_key(key(2)), "ann"), text + "\n" + key(2) + " ann\n");
  EXPECT_EQ(without_trusted_key(text, parse_key(key(0))), "# mine\n\n" + key(1) + " bob\n");
  EXPECT_EQ(without_trusted_key(text, parse_key(key(2))), std::nullopt);
  EXPECT_EQ(with_known_node("node7:7335 " + key(0), "node7", parse_key(key(1))),
            "node7 " + key(1) + "\n");
  EXPECT_EQ(without_known_node("a " + key(0) + "\n[::1] " + key(1) + "\n", "[::1]"),
            "a " + key(0) + "\n");
}

using TrustFiles = InTestFolder;

TEST_F(TrustFiles, ThatAreMissingTrustNobody) {
  EXPECT_TRUE(read_trusted_keys(folder(), KeysFor::kOneUser).empty());
  EXPECT_TRUE(read_known_nodes(path("none")).empty());
  EXPECT_FALSE(forget_node(path("none"), "node7"));
}

TEST_F(TrustFiles, AreMadeChangedAndEmptied) {
  trust_key(path("new"), KeysFor::kEveryUser, parse_key(key(0)), "eve");
  trust_key(path("new"), KeysFor::kEveryUser, parse_key(key(1)), "bob");
  trust_key(path("new"), KeysFor::kEveryUser, parse_key(key(0)), "ann");
  trust_node(path("new"), "node7", parse_key(key(2)));
  EXPECT_EQ(mode_of("new"), 0700U);
  EXPECT_EQ(mode_of("new/trusted_keys"), 0600U);
  EXPECT_EQ(mode_of("new/known_nodes"), 0600U);
  EXPECT_EQ(read_trusted_keys(path("new"), KeysFor::kEveryUser)[0].user, "ann");
  EXPECT_EQ(read_known_nodes(path("new"))[0].key.text(), key(2));
  EXPECT_TRUE(forget_key(path("new"), KeysFor::kEveryUser, parse_key(key(0))));
  EXPECT_FALSE(forget_key(path("new"), KeysFor::kEveryUser, parse_key(key(0))));
  EXPECT_TRUE(forget_node(path("new"), "node7"));
  EXPECT_EQ(read("new/trusted_keys"), key(1) + " bob\n");
  EXPECT_EQ(read("new/known_nodes"), "");
}

TEST_F(TrustFiles, ThatOthersCouldHaveWrittenAreRefusedByName) {
  write("trusted_keys", key(0), 0664);
  Error error = error_of([&] { read_trusted_keys(folder(), KeysFor::kOneUser); });
  EXPECT_EQ(error.code(), Code::kUnauthorised);
  EXPECT_THAT(error.text(),
              HasSubstr(path("trusted_keys") + " (mode 0664) can be written by others"));
  write("trusted_keys", key(0), 0644);
  EXPECT_EQ(read_trusted_keys(folder(), KeysFor::kOneUser).size(), 1U);
}

TEST_F(TrustFiles, ThatAreDamagedAreNotChanged) {
  write("trusted_keys", "tf1:x\n");
  EXPECT_EQ(error_of([&] { trust_key(folder(), KeysFor::kOneUser, parse_key(key(0)), ""); }).code(),
            Code::kUnauthorised);
  EXPECT_EQ(read("trusted_keys"), "tf1:x\n");
}

}  // namespace
}  // namespace telefork::net
