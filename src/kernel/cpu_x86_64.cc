#include <cpuid.h>
#include <sys/auxv.h>

#include <cstring>

#include "kernel/cpu.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

constexpr std::uint32_t kExtended = 0x80000000;
constexpr std::uint32_t kXsaveLeaf = 0xd;
constexpr std::uint32_t kFeature1Osxsave = 1u << 27;  // leaf 1, ecx
constexpr std::uint32_t kFeature7Fsgsbase = 1u << 0;  // leaf 7.0, ebx
constexpr unsigned long kHwcap2Fsgsbase = 1ul << 1;   // arch/x86/include/uapi/asm/hwcap2.h

CpuLeaf cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  CpuLeaf result{.leaf = leaf, .subleaf = subleaf};
  __cpuid_count(leaf, subleaf, result.eax, result.ebx, result.ecx, result.edx);
  return result;
}

// Asking beyond the last leaf gives the last one's answer on Intel: so ask only up to it.
bool has_leaf(std::uint32_t leaf) { return cpuid(leaf & kExtended, 0).eax >= leaf; }

std::uint64_t read_xcr0() {
  if ((cpuid(1, 0).ecx & kFeature1Osxsave) == 0) return 0;
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

// ebx has the APIC id, ecx and edx bits that the kernel switches; what is left is the same on every
// CPU of a machine.
CpuLeaf feature_leaf_1() {
  CpuLeaf leaf = cpuid(1, 0);
  leaf.ebx = 0;
  leaf.ecx &= ~kFeature1Osxsave;
  return leaf;
}

// The CPU has the instructions, but they fault unless the kernel allows them (CR4.FSGSBASE).
CpuLeaf feature_leaf_7() {
  CpuLeaf leaf = cpuid(7, 0);
  if ((::getauxval(AT_HWCAP2) & kHwcap2Fsgsbase) == 0) leaf.ebx &= ~kFeature7Fsgsbase;
  return leaf;
}

void append_feature_leaves(std::vector<CpuLeaf>& leaves) {
  leaves.push_back(feature_leaf_1());
  if (has_leaf(7)) {
    leaves.push_back(feature_leaf_7());
    if (leaves.back().eax >= 1) leaves.push_back(cpuid(7, 1));
  }
  for (std::uint32_t leaf : {kExtended + 1, kExtended + 7, kExtended + 8})
    if (has_leaf(leaf)) leaves.push_back(cpuid(leaf, 0));
}

// Leaf 0xd: 1 has features; from 2 on each state's size (eax) and offset (ebx) in an xsave area,
// which differ between vendors. What is in ebx of 0 and 1 depends on what is switched on just now.
void append_xsave_leaves(std::vector<CpuLeaf>& leaves, std::uint64_t xcr0) {
  if (!has_leaf(kXsaveLeaf)) return;
  leaves.push_back({.leaf = kXsaveLeaf, .subleaf = 1, .eax = cpuid(kXsaveLeaf, 1).eax});
  for (std::uint32_t state = 2; state < 63; ++state)
    if ((xcr0 >> state & 1) != 0) leaves.push_back(cpuid(kXsaveLeaf, state));
}

std::string brand() {
  if (!has_leaf(kExtended + 4)) return "unknown";
  std::string text;
  for (std::uint32_t leaf = kExtended + 2; leaf <= kExtended + 4; ++leaf) {
    CpuLeaf part = cpuid(leaf, 0);
    std::uint32_t words[] = {part.eax, part.ebx, part.ecx, part.edx};
    text.append(reinterpret_cast<const char*>(words), sizeof words);
  }
  return std::string(trim(text.c_str()));
}

}  // namespace

CpuFacts cpu_facts() {
  CpuFacts facts{.arch = "x86_64", .vendor_model = brand(), .xcr0 = read_xcr0(), .leaves = {}};
  append_feature_leaves(facts.leaves);
  append_xsave_leaves(facts.leaves, facts.xcr0);
  return facts;
}

}  // namespace telefork::kernel
