#include "kernel/xstate.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::kernel {
namespace {

constexpr std::size_t kFixedSize = kXsaveLegacySize + kXsaveHeaderSize;
constexpr std::size_t kXstateBvOffset = kXsaveLegacySize;
// The kernel keeps xcr0 here, in bytes that the CPU leaves to software (struct user_xstateregs).
constexpr std::size_t kSoftwareXcr0Offset = 464;
constexpr std::uint32_t kXstateLeaf = 0xd;
constexpr std::uint64_t kLegacyStates = 3;  // x87 and sse
// AMX is 11 KB; the architecture has no bound.
constexpr std::uint32_t kMaxArea = 1 << 20;

std::uint64_t load_u64(std::span<const std::byte> area, std::size_t offset) {
  std::uint64_t value;
  std::memcpy(&value, area.data() + offset, sizeof value);
  return value;
}

XsaveState checked_state(const CpuLeaf& leaf) {
  XsaveState state{.bit = leaf.subleaf, .offset = leaf.ebx, .size = leaf.eax};
  if (state.bit > 62 || state.offset < kFixedSize || state.offset > kMaxArea ||
      state.size > kMaxArea)
    throw Error(Code::kCorrupt, fmt::format("xsave state {} of {} bytes at {}", state.bit,
                                            state.size, state.offset));
  return state;
}

const XsaveState* find_state(const std::vector<XsaveState>& layout, unsigned bit) {
  auto found = std::find_if(layout.begin(), layout.end(),
                            [bit](const XsaveState& state) { return state.bit == bit; });
  return found == layout.end() ? nullptr : &*found;
}

const XsaveState& needed_state(const std::vector<XsaveState>& layout, unsigned bit) {
  const XsaveState* state = find_state(layout, bit);
  if (state == nullptr)
    throw Error(Code::kUnsupported, fmt::format("registers of xsave state {} are in use", bit));
  return *state;
}

void copy_state(std::span<const std::byte> area, const XsaveState& from,
                std::vector<std::byte>& converted, const XsaveState& to) {
  std::memcpy(converted.data() + to.offset, area.data() + from.offset,
              std::min(from.size, to.size));
}

}  // namespace

std::vector<XsaveState> xsave_layout(const CpuFacts& facts) {
  std::vector<XsaveState> layout;
  for (const CpuLeaf& leaf : facts.leaves)
    if (leaf.leaf == kXstateLeaf && leaf.subleaf >= 2) layout.push_back(checked_state(leaf));
  std::sort(layout.begin(), layout.end(),
            [](const XsaveState& a, const XsaveState& b) { return a.bit < b.bit; });
  return layout;
}

std::size_t xsave_area_size(const std::vector<XsaveState>& layout) {
  std::size_t size = kFixedSize;
  for (const XsaveState& state : layout)
    size = std::max<std::size_t>(size, std::size_t{state.offset} + state.size);
  return size;
}

std::vector<std::byte> convert_xstate(std::span<const std::byte> area,
                                      const std::vector<XsaveState>& from,
                                      const std::vector<XsaveState>& to, std::uint64_t to_xcr0) {
  if (area.size() < xsave_area_size(from))
    throw Error(Code::kCorrupt, fmt::format("an xsave area of {} bytes", area.size()));
  std::vector<std::byte> converted(xsave_area_size(to));
  std::memcpy(converted.data(), area.data(), kFixedSize);
  std::memcpy(converted.data() + kSoftwareXcr0Offset, &to_xcr0, sizeof to_xcr0);
  std::uint64_t in_use = load_u64(area, kXstateBvOffset) & ~kLegacyStates;
  for (unsigned bit = 2; bit < 64; ++bit)
    if ((in_use >> bit & 1) != 0)
      copy_state(area, needed_state(from, bit), converted, needed_state(to, bit));
  return converted;
}

}  // namespace telefork::kernel
