#include "session/greeter.h"

#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "net/identity.h"

namespace telefork::session {
namespace {

std::vector<std::byte> report_of(std::byte first, std::string_view rest) {
  std::vector<std::byte> report = {first};
  for (char c : rest) report.push_back(static_cast<std::byte>(c));
  return report;
}

TEST(GreeterReport, IsAsLongAsItsFirstByteSays) {
  EXPECT_EQ(greeter_report_size({}), 1U);
  EXPECT_EQ(greeter_report_size(report_of(std::byte{1}, "")), 33U);
  EXPECT_EQ(greeter_report_size(report_of(std::byte{0}, "why")), kMaxGreeterReport);
  EXPECT_EQ(greeter_report_size(report_of(std::byte{7}, "")), kMaxGreeterReport);
}

TEST(GreeterReport, HasTheKeyOrTheReason) {
  net::PublicKey key = net::Identity::make().key();
  std::vector<std::byte> report = {std::byte{1}};
  report.insert(report.end(), key.bytes.begin(), key.bytes.end());
  EXPECT_EQ(decode_greeter_report(report), key);
  EXPECT_EQ(decode_greeter_failure(report_of(std::byte{0}, "why")), "why");
}

TEST(GreeterReport, SaysWhoseFaultItIs) {
  EXPECT_FALSE(is_fault_of_this_machine({}));
  EXPECT_FALSE(is_fault_of_this_machine(report_of(std::byte{0}, "why")));
  EXPECT_TRUE(is_fault_of_this_machine(report_of(std::byte{2}, "why")));
  EXPECT_EQ(greeter_report_size(report_of(std::byte{2}, "why")), kMaxGreeterReport);
  EXPECT_EQ(decode_greeter_failure(report_of(std::byte{2}, "why")), "why");
}

}  // namespace
}  // namespace telefork::session
