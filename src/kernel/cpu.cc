#include "kernel/cpu.h"

#include <fmt/format.h>

#include "kernel/cpu_tables.h"

namespace telefork::kernel {
namespace {

std::span<const CpuFeature> features_of(const std::string& arch) {
  if (arch == "x86_64") return x86_64_features();
  if (arch == "aarch64") return aarch64_features();
  return {};
}

std::uint32_t register_of(const CpuLeaf& leaf, CpuRegister where) {
  switch (where) {
    case CpuRegister::kEax:
      return leaf.eax;
    case CpuRegister::kEbx:
      return leaf.ebx;
    case CpuRegister::kEcx:
      return leaf.ecx;
    case CpuRegister::kEdx:
      return leaf.edx;
  }
  return 0;
}

// A leaf that a CPU does not have counts as zeros, as CPUID itself has it.
bool has(const CpuFacts& facts, const CpuFeature& feature) {
  for (const CpuLeaf& leaf : facts.leaves)
    if (leaf.leaf == feature.leaf && leaf.subleaf == feature.subleaf)
      return (register_of(leaf, feature.where) >> feature.bit & 1) != 0;
  return false;
}

std::string xsave_state_text(unsigned bit) {
  std::string_view name = xsave_state_name(bit);
  return name.empty() ? fmt::format("xsave state {}", bit)
                      : fmt::format("xsave state {} ({})", bit, name);
}

void append_xsave_states(std::vector<std::string>& names, std::uint64_t states,
                         std::string_view prefix) {
  for (unsigned bit = 0; bit < 64; ++bit)
    if ((states >> bit & 1) != 0)
      names.push_back(fmt::format("{}{}", prefix, xsave_state_text(bit)));
}

std::string architecture_text(const CpuFacts& facts) {
  return fmt::format("architecture {}", facts.arch.empty() ? "unknown" : facts.arch);
}

// SVE registers are as wide as the CPU makes them; code reads the width when it starts.
std::uint32_t vector_length(const CpuFacts& facts) {
  for (const CpuLeaf& leaf : facts.leaves)
    if (leaf.leaf == kVectorLengthLeaf) return leaf.eax;
  return 0;
}

}  // namespace

std::vector<std::string> missing_features(const CpuFacts& needed, const CpuFacts& offered) {
  if (needed.arch != offered.arch) return {architecture_text(needed)};
  std::vector<std::string> missing;
  for (const CpuFeature& feature : features_of(needed.arch))
    if (!feature.hint && has(needed, feature) && !has(offered, feature))
      missing.emplace_back(feature.name);
  append_xsave_states(missing, needed.xcr0 & ~offered.xcr0, "");
  if (vector_length(needed) != 0 && vector_length(needed) != vector_length(offered))
    missing.push_back(fmt::format("sve vectors of {} bytes", vector_length(needed)));
  return missing;
}

std::vector<std::string> different_features(const CpuFacts& here, const CpuFacts& there) {
  if (here.arch != there.arch)
    return {"-" + architecture_text(here), "+" + architecture_text(there)};
  std::vector<std::string> different;
  for (const CpuFeature& feature : features_of(here.arch))
    if (has(here, feature) != has(there, feature))
      different.push_back(fmt::format("{}{}", has(here, feature) ? '-' : '+', feature.name));
  append_xsave_states(different, here.xcr0 & ~there.xcr0, "-");
  append_xsave_states(different, there.xcr0 & ~here.xcr0, "+");
  if (vector_length(here) != vector_length(there))
    different.push_back(
        fmt::format("sve vectors of {} and {} bytes", vector_length(here), vector_length(there)));
  return different;
}

}  // namespace telefork::kernel
