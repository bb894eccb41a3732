// The names of CPU features, for cpu.cc only: plain data.
//
// x86: Intel SDM vol. 2A "CPUID", AMD APM vol. 3 appendix E; the names are those of /proc/cpuinfo
// (arch/x86/include/asm/cpufeatures.h). Left out is what a user program cannot notice or must ask
// the kernel for (shadow stacks, SGX, PASID), and osxsave and ospke, which xcr0 tells.
// aarch64: arch/arm64/include/uapi/asm/hwcap.h.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace telefork::kernel {

// A leaf of our own: on aarch64 eax is the length of an SVE vector in bytes.
constexpr std::uint32_t kVectorLengthLeaf = 0x5ee;

enum class CpuRegister { kEax, kEbx, kEcx, kEdx };

struct CpuFeature {
  std::uint32_t leaf;
  std::uint32_t subleaf;
  CpuRegister where;
  unsigned bit;
  std::string_view name;
  bool hint = false;  // code for it runs without it too, only slower
};

std::span<const CpuFeature> x86_64_features();
std::span<const CpuFeature> aarch64_features();
// "avx" for 2; empty for a bit without a name.
std::string_view xsave_state_name(unsigned bit);

}  // namespace telefork::kernel
