#include "kernel/cpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernel/cpu_tables.h"

namespace telefork::kernel {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr std::uint32_t kAvx512f = 1u << 16;
constexpr std::uint32_t kErms = 1u << 9;

CpuFacts x86(std::uint32_t leaf_7_ebx, std::uint64_t xcr0) {
  return {.arch = "x86_64",
          .vendor_model = "test",
          .xcr0 = xcr0,
          .leaves = {{.leaf = 7, .subleaf = 0, .ebx = leaf_7_ebx}}};
}

TEST(Cpu, OfThisMachineMissesNothingOfItself) {
  CpuFacts facts = cpu_facts();
  EXPECT_FALSE(facts.arch.empty());
  EXPECT_FALSE(facts.vendor_model.empty());
  EXPECT_FALSE(facts.leaves.empty());
  EXPECT_THAT(missing_features(facts, facts), IsEmpty());
  EXPECT_THAT(different_features(facts, facts), IsEmpty());
  EXPECT_EQ(facts, cpu_facts());
}

TEST(Cpu, NamesAMissingInstructionSet) {
  EXPECT_THAT(missing_features(x86(kAvx512f, 7), x86(0, 7)), ElementsAre("avx512f"));
  EXPECT_THAT(missing_features(x86(0, 7), x86(kAvx512f, 7)), IsEmpty());
}

TEST(Cpu, NamesAMissingXsaveState) {
  EXPECT_THAT(missing_features(x86(0, 0x87), x86(0, 7)), ElementsAre("xsave state 7 (hi16_zmm)"));
  EXPECT_THAT(missing_features(x86(0, 1ull << 40), x86(0, 7)), ElementsAre("xsave state 40"));
}

TEST(Cpu, DoesNotMissWhatOnlyMakesThingsFaster) {
  EXPECT_THAT(missing_features(x86(kErms, 7), x86(0, 7)), IsEmpty());
  EXPECT_THAT(different_features(x86(kErms, 7), x86(0, 7)), ElementsAre("-erms"));
}

TEST(Cpu, TellsDifferencesInBothDirections) {
  EXPECT_THAT(different_features(x86(kAvx512f, 7), x86(kErms, 0x207)),
              UnorderedElementsAre("-avx512f", "+erms", "+xsave state 9 (pkru)"));
}

TEST(Cpu, NamesTheArchitectureWhenItIsAnother) {
  CpuFacts arm{.arch = "aarch64", .vendor_model = "", .xcr0 = 0, .leaves = {}};
  EXPECT_THAT(missing_features(arm, x86(0, 7)), ElementsAre("architecture aarch64"));
  EXPECT_THAT(different_features(arm, x86(0, 7)),
              ElementsAre("-architecture aarch64", "+architecture x86_64"));
}

TEST(Cpu, ComparesHwcapsOnAarch64) {
  CpuFacts big{
      .arch = "aarch64", .vendor_model = "", .xcr0 = 0, .leaves = {{.leaf = 16, .eax = 1u << 22}}};
  CpuFacts small{.arch = "aarch64", .vendor_model = "", .xcr0 = 0, .leaves = {}};
  EXPECT_THAT(missing_features(big, small), ElementsAre("sve"));
}

TEST(CpuTables, NameEachBitOnce) {
  for (auto table : {x86_64_features(), aarch64_features()})
    for (const CpuFeature& one : table) {
      EXPECT_LT(one.bit, 32u);
      int same = 0;
      for (const CpuFeature& other : table)
        same += one.name == other.name || (one.leaf == other.leaf && one.subleaf == other.subleaf &&
                                           one.where == other.where && one.bit == other.bit);
      EXPECT_EQ(same, 1) << one.name;
    }
}

}  // namespace
}  // namespace telefork::kernel
