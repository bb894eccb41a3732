#include "protocol/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "protocol/test_machine.h"

namespace telefork::protocol {
namespace {

using ::testing::HasSubstr;

std::string refusal(const TestMachine& source, const TestMachine& destination, bool force = false) {
  try {
    check_compatible(source.reader(), destination.reader(), force);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    return error.text();
  }
  return "";
}

TEST(Machine, GathersThisOne) {
  OwnMachine own;
  EXPECT_GT(own.reader().getHostname().size(), 0U);
  EXPECT_GT(own.reader().getBootId().size(), 0U);
  EXPECT_GT(own.reader().getCpuLeaves().size(), 0U);
  EXPECT_GE(own.reader().getPageSize(), 4096U);
  EXPECT_GE(own.reader().getClockBoottime(), own.reader().getClockMonotonic());
  EXPECT_NO_THROW(check_compatible(own.reader(), own.reader(), false));
}

TEST(Machine, KeepsTheCpuFactsAcrossTheSchema) {
  kernel::CpuFacts facts = kernel::cpu_facts();
  TestMachine machine("a");
  encode_cpu(facts, machine.builder());
  EXPECT_EQ(decode_cpu(machine.reader()), facts);
}

TEST(Machine, NamesTheFeaturesThatTheDestinationLacks) {
  kernel::CpuFacts facts = kernel::cpu_facts();
  TestMachine rich("rich");
  TestMachine poor("poor");
  encode_cpu(facts, rich.builder());
  for (kernel::CpuLeaf& leaf : facts.leaves) leaf.ebx = leaf.ecx = 0;
  encode_cpu(facts, poor.builder());
  std::vector<std::string> missing =
      kernel::missing_features(decode_cpu(rich.reader()), decode_cpu(poor.reader()));
  ASSERT_FALSE(missing.empty());
  std::string text = refusal(rich, poor);
  EXPECT_THAT(text, HasSubstr("a process of rich cannot run on poor"));
  for (const std::string& name : missing) EXPECT_THAT(text, HasSubstr(name));
  EXPECT_EQ(refusal(poor, rich), "");
  EXPECT_EQ(refusal(rich, poor, true), "");
  poor.builder().setBootId(rich.reader().getBootId());
  EXPECT_EQ(refusal(rich, poor), "");
}

TEST(Machine, NamesTheFeaturesThatWhoComesBackWouldMiss) {
  kernel::CpuFacts facts = kernel::cpu_facts();
  TestMachine rich("rich");
  TestMachine poor("poor");
  encode_cpu(facts, rich.builder());
  for (kernel::CpuLeaf& leaf : facts.leaves) leaf.ebx = leaf.ecx = 0;
  encode_cpu(facts, poor.builder());
  EXPECT_NO_THROW(check_can_return(rich.reader(), rich.reader()));
  EXPECT_NO_THROW(check_can_return(rich.reader(), poor.reader()));
  try {
    check_can_return(poor.reader(), rich.reader());
    FAIL() << "nothing was refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    for (const std::string& name :
         kernel::missing_features(decode_cpu(rich.reader()), decode_cpu(poor.reader()))) {
      EXPECT_THAT(error.text(), HasSubstr(name));
    }
  }
}

TEST(Machine, RefusesAnotherArchitectureOrPageSizeEvenByForce) {
  TestMachine here("here");
  TestMachine there("there", "aarch64");
  EXPECT_THAT(refusal(here, there, true), HasSubstr("x86_64 here and aarch64 there"));
  TestMachine wide("wide");
  wide.builder().setPageSize(65536);
  EXPECT_THAT(refusal(here, wide, true), HasSubstr("4096 bytes here and 65536 there"));
}

}  // namespace
}  // namespace telefork::protocol
