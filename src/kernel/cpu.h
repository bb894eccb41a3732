// What a CPU offers to programs, and whether another one offers as much.
//
// A program asks CPUID once and then jumps to AVX-512 code for the rest of its life; moved to a
// machine without, it dies long after a "successful" restore. So the facts of the source travel
// ahead, and the destination refuses by name, before anything else is sent:
//
//     for (const std::string& name : missing_features(header.cpu, cpu_facts()))
//       "avx512f", "xsave state 7 (hi16_zmm)", ...
//
// CpuFacts is a plain value with the raw registers of the CPUID leaves that have features (on
// aarch64 the HWCAP words of the auxiliary vector), so that an image keeps what no table of today
// names. Compared are only bits that a user program can notice: not the APIC id, not what the
// kernel keeps for itself, not what the kernel has not switched on.
//
// The tables for both architectures are built everywhere, so that an image of one can be shown on
// the other; cpu_facts() is in cpu_x86_64.cc and cpu_aarch64.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace telefork::kernel {

// On aarch64 `leaf` is AT_HWCAP, AT_HWCAP2 or AT_HWCAP3, eax its low and ebx its high half.
struct CpuLeaf {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  std::uint32_t eax = 0;
  std::uint32_t ebx = 0;
  std::uint32_t ecx = 0;
  std::uint32_t edx = 0;
  bool operator==(const CpuLeaf&) const = default;
};

struct CpuFacts {
  std::string arch;          // as uname(2): "x86_64", "aarch64"
  std::string vendor_model;  // for people; never compared
  std::uint64_t xcr0 = 0;    // the xsave states that the kernel keeps; 0 on aarch64
  std::vector<CpuLeaf> leaves;
  bool operator==(const CpuFacts&) const = default;
};

// Of the CPU that this runs on. Some 30 CPUID instructions, each of which traps in a guest (130 us
// measured in one): ask once.
CpuFacts cpu_facts();

// What `needed` has and `offered` lacks; empty when a program from there can run here. Bits that
// only make something faster (erms, fsrm, prefetches) are not missed.
std::vector<std::string> missing_features(const CpuFacts& needed, const CpuFacts& offered);

// What either has and the other lacks: "-avx512f" is not in `there`, "+sha_ni" not in `here`. Empty
// when libraries, having chosen their code on one of them, would choose the same on the other.
std::vector<std::string> different_features(const CpuFacts& here, const CpuFacts& there);

}  // namespace telefork::kernel
