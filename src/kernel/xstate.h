// The layout of an x86 xsave area, as ptrace's NT_X86_XSTATE gives and takes it, and its
// conversion between machines.
//
//     0        512          576
//     | legacy | header     | state 2 (avx) | ... at the offsets that CPUID 0xd.N gives ...
//                XSTATE_BV
//
// The offsets are the CPU's, not the architecture's: after avx at 576 Intel leaves a hole where
// MPX was and has opmask at 1088, AMD has it at 832. Two machines with the same xcr0 have areas of
// different sizes, and copying the bytes would put zmm registers where masks belong.
//
// Pure functions; facts come from cpu.h, bytes from an image: they are checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernel/cpu.h"

namespace telefork::kernel {

struct XsaveState {
  unsigned bit = 0;
  std::uint32_t offset = 0;
  std::uint32_t size = 0;
  bool operator==(const XsaveState&) const = default;
};

constexpr std::size_t kXsaveLegacySize = 512;
constexpr std::size_t kXsaveHeaderSize = 64;

// States 2 and up of that CPU, in the order of their bits. Code::kCorrupt when an offset or size
// cannot be (from a damaged image).
std::vector<XsaveState> xsave_layout(const CpuFacts& facts);

// The size of the whole area: 2432, 2696 ...
std::size_t xsave_area_size(const std::vector<XsaveState>& layout);

// The same registers in the other layout. States in use that `to` lacks are Code::kUnsupported
// (missing_features() has named them before); an area too short for its layout is Code::kCorrupt.
// `to_xcr0` becomes the mask of states in the software-reserved bytes.
std::vector<std::byte> convert_xstate(std::span<const std::byte> area,
                                      const std::vector<XsaveState>& from,
                                      const std::vector<XsaveState>& to, std::uint64_t to_xcr0);

}  // namespace telefork::kernel
