// The upper halves of the ymm registers of a thread that computes without a call.
#include "computing.h"

static void* compute(void*) {
  unsigned char pattern[32];
  unsigned char result[32] = {};
  for (int i = 0; i < 32; ++i) pattern[i] = static_cast<unsigned char>(200 - i);
  asm volatile(
      "vmovdqu (%1), %%ymm5\n movb $1, (%3)\n"
      "1: pause\n cmpb $0, (%0)\n je 1b\n"
      "vmovdqu %%ymm5, (%2)\n vzeroupper\n" ::"r"(&victim_ends),
      "r"(pattern), "r"(result), "r"(&victim_computes)
      : "memory", "xmm5");
  VICTIM_CHECK(std::memcmp(pattern, result, sizeof pattern) == 0);
  return nullptr;
}

int main() {
  if (!__builtin_cpu_supports("avx")) victim_skip("avx");
  victim_pass_computing(compute);
}
