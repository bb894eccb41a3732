#include "kernel/xstate.h"

#include <cstring>

#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::kernel {
namespace {

// The offsets of real machines: AMD Zen 5 and Intel Sapphire Rapids.
const std::vector<XsaveState> kAmd = {{2, 576, 256}, {5, 832, 64}, {6, 896, 512}, {7, 1408, 1024}};
const std::vector<XsaveState> kIntel = {
    {2, 576, 256}, {5, 1088, 64}, {6, 1152, 512}, {7, 1664, 1024}, {9, 2688, 8}};
constexpr std::uint64_t kAvx512 = 0xe7;

std::vector<std::byte> area_of(const std::vector<XsaveState>& layout, std::uint64_t in_use) {
  std::vector<std::byte> area(xsave_area_size(layout), std::byte{0xff});
  std::memset(area.data(), 0x11, 512);
  std::memset(area.data() + 512, 0, 64);
  std::memcpy(area.data() + 512, &in_use, sizeof in_use);
  for (const XsaveState& state : layout)
    std::memset(area.data() + state.offset, static_cast<int>(state.bit), state.size);
  return area;
}

Code failure(const std::vector<std::byte>& area, const std::vector<XsaveState>& from,
             const std::vector<XsaveState>& to) {
  try {
    convert_xstate(area, from, to, kAvx512);
  } catch (const Error& error) {
    return error.code();
  }
  return Code::kFailed;
}

TEST(Xstate, PutsEachStateWhereTheOtherVendorHasIt) {
  auto converted = convert_xstate(area_of(kAmd, kAvx512), kAmd, kIntel, 0x2e7);
  ASSERT_EQ(converted.size(), 2696u);
  for (unsigned i : {0u, 1u, 2u, 3u})
    EXPECT_EQ(converted[kIntel[i].offset + kIntel[i].size - 1], std::byte(kIntel[i].bit));
  EXPECT_EQ(converted[832], std::byte{0});
  std::uint64_t xcr0;
  std::memcpy(&xcr0, converted.data() + 464, sizeof xcr0);
  EXPECT_EQ(xcr0, 0x2e7u);
}

TEST(Xstate, ComesBackAsItWas) {
  auto area = area_of(kAmd, kAvx512);
  auto there = convert_xstate(area, kAmd, kIntel, kAvx512);
  auto back = convert_xstate(there, kIntel, kAmd, kAvx512);
  EXPECT_EQ(std::memcmp(back.data() + 512, area.data() + 512, area.size() - 512), 0);
}

TEST(Xstate, RefusesARegisterInUseThatTheOtherLacks) {
  EXPECT_EQ(failure(area_of(kIntel, 0x207), kIntel, kAmd), Code::kUnsupported);
}

TEST(Xstate, DropsAStateThatIsNotInUse) {
  EXPECT_NO_THROW(convert_xstate(area_of(kIntel, 0x7), kIntel, kAmd, kAvx512));
}

TEST(Xstate, RefusesAnAreaThatIsTooShort) {
  auto area = area_of(kIntel, 0x7);
  area.resize(area.size() - 1);
  EXPECT_EQ(failure(area, kIntel, kAmd), Code::kCorrupt);
}

TEST(XsaveLayout, RefusesAnOffsetThatCannotBe) {
  CpuFacts facts{.arch = "x86_64",
                 .vendor_model = "",
                 .xcr0 = 7,
                 .leaves = {{.leaf = 0xd, .subleaf = 2, .eax = 256, .ebx = 0xfffffff0}}};
  EXPECT_THROW(xsave_layout(facts), Error);
  facts.leaves[0].ebx = 16;
  EXPECT_THROW(xsave_layout(facts), Error);
}

TEST(XsaveLayout, OfThisMachineCoversItsStates) {
  CpuFacts facts = cpu_facts();
  std::uint64_t states = 0;
  for (const XsaveState& state : xsave_layout(facts)) states |= 1ull << state.bit;
  EXPECT_EQ(states, facts.xcr0 & ~3ull);
}

}  // namespace
}  // namespace telefork::kernel
