#include <sys/auxv.h>
#include <sys/prctl.h>

#include <fmt/format.h>

#include "kernel/cpu.h"
#include "kernel/cpu_tables.h"

namespace telefork::kernel {
namespace {

constexpr std::uint32_t kHwcapCpuid = 1u << 11;
constexpr std::uint32_t kHwcapSve = 1u << 22;
constexpr int kPrSveGetVl = 51;
constexpr int kVlLengthMask = 0xffff;

CpuLeaf hwcap_leaf(std::uint32_t type) {
  std::uint64_t bits = ::getauxval(type);
  return {.leaf = type,
          .eax = static_cast<std::uint32_t>(bits),
          .ebx = static_cast<std::uint32_t>(bits >> 32)};
}

// MIDR_EL1: implementer, variant, architecture, part, revision. The kernel emulates the read.
std::string model() {
  if ((::getauxval(AT_HWCAP) & kHwcapCpuid) == 0) return "unknown";
  std::uint64_t midr = 0;
  asm("mrs %0, midr_el1" : "=r"(midr));
  return fmt::format("implementer {:#x} part {:#x} variant {} revision {}", midr >> 24 & 0xff,
                     midr >> 4 & 0xfff, midr >> 20 & 0xf, midr & 0xf);
}

}  // namespace

CpuFacts cpu_facts() {
  CpuFacts facts{.arch = "aarch64", .vendor_model = model(), .xcr0 = 0, .leaves = {}};
  facts.leaves = {hwcap_leaf(AT_HWCAP), hwcap_leaf(AT_HWCAP2)};
  if ((facts.leaves[0].eax & kHwcapSve) != 0) {
    int length = ::prctl(kPrSveGetVl);
    if (length > 0)
      facts.leaves.push_back(
          {.leaf = kVectorLengthLeaf, .eax = static_cast<std::uint32_t>(length & kVlLengthMask)});
  }
  return facts;
}

}  // namespace telefork::kernel
