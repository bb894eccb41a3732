// A tile of AMX, with its configuration, in a thread that computes without a call.
#include "computing.h"

struct alignas(64) Configuration {
  unsigned char palette = 1;
  unsigned char start_row = 0;
  unsigned char reserved[14] = {};
  unsigned short bytes_of_row[16] = {64};
  unsigned char rows[16] = {16};
};

__attribute__((target("amx-tile"))) static void* compute(void*) {
  alignas(64) unsigned char pattern[1024];
  alignas(64) unsigned char result[1024] = {};
  for (int i = 0; i < 1024; ++i) pattern[i] = static_cast<unsigned char>(11 * i + 1);
  const Configuration configuration;
  asm volatile(
      "ldtilecfg (%0)\n tileloadd (%2,%5,1), %%tmm0\n movb $1, (%4)\n"
      "1: pause\n cmpb $0, (%1)\n je 1b\n"
      "tilestored %%tmm0, (%3,%5,1)\n tilerelease\n" ::"r"(&configuration),
      "r"(&victim_ends), "r"(pattern), "r"(result), "r"(&victim_computes), "r"(64L)
      : "memory");
  VICTIM_CHECK(std::memcmp(pattern, result, sizeof pattern) == 0);
  return nullptr;
}

int main() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) victim_skip("amx_tile");
  victim_pass_computing(compute);
}
