#include "net/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::net {
namespace {

using Kind = NodeAddress::Kind;
using ::testing::HasSubstr;

std::string refusal(std::string_view text) {
  try {
    parse_node(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUsage);
    return error.text();
  }
  ADD_FAILURE() << text << " was taken";
  return "";
}

TEST(NodeAddress, KnowsTheFourKinds) {
  EXPECT_EQ(parse_node("local").kind, Kind::kLocal);
  EXPECT_EQ(parse_node("unix:/run/t.sock").path, "/run/t.sock");
  EXPECT_EQ(parse_node("node7").host, "node7");
  EXPECT_EQ(parse_node("node7").port, kDefaultPort);
  EXPECT_EQ(parse_node("node7:81").port, 81);
  EXPECT_EQ(parse_node("ssh://node7").host, "node7");
  EXPECT_EQ(parse_node("ssh://eve@node7").user, "eve");
}

TEST(NodeAddress, TakesIpv6InBracketsOnly) {
  EXPECT_EQ(parse_node("[::1]").host, "::1");
  EXPECT_EQ(parse_node("[fe80::1%eth0]:7000").host, "fe80::1%eth0");
  EXPECT_EQ(parse_node("[::1]:7000").port, 7000);
  EXPECT_THAT(refusal("::1"), HasSubstr("brackets"));
  EXPECT_THAT(refusal("[::1"), HasSubstr("']' is missing"));
  EXPECT_THAT(refusal("[::1]7000"), HasSubstr("can follow ']'"));
}

TEST(NodeAddress, NamesTheTextThatIsNoNode) {
  for (const char* text : {"", "unix:", "ssh://", "ssh://@h", "ssh://u@", "a:", "a:0", "a:65536",
                           "a:b", "a:1x", "a b", "a/b", ":7335", "[]:1"}) {
    EXPECT_THAT(refusal(text), HasSubstr(std::string("'") + text + "' is no node"));
  }
}

TEST(NodeAddress, RefusesWhatSshWouldTakeForAnOption) {
  EXPECT_THAT(refusal("ssh://-oProxyCommand=x"), HasSubstr("does not begin with '-'"));
  EXPECT_THAT(refusal("ssh://-l@host"), HasSubstr("does not begin with '-'"));
  EXPECT_THAT(refusal("-host"), HasSubstr("does not begin with '-'"));
}

TEST(NodeAddress, IsWrittenAsItIsRead) {
  for (const char* text : {"local", "unix:/a b", "node7", "node7:81", "[::1]", "[::1]:81",
                           "ssh://node7", "ssh://eve@node7"}) {
    EXPECT_EQ(parse_node(text).text(), text);
  }
}

}  // namespace
}  // namespace telefork::net
