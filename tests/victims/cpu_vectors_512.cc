// A zmm register beyond the sixteenth, and a mask register.
#include "computing.h"

__attribute__((target("avx512f"))) static void* compute(void*) {
  unsigned char pattern[64];
  unsigned char result[64] = {};
  unsigned mask = 0;
  for (int i = 0; i < 64; ++i) pattern[i] = static_cast<unsigned char>(7 * i + 3);
  asm volatile(
      "vmovdqu64 (%2), %%zmm21\n movl $0xa5c3, %%eax\n kmovw %%eax, %%k5\n movb $1, (%4)\n"
      "1: pause\n cmpb $0, (%1)\n je 1b\n"
      "vmovdqu64 %%zmm21, (%3)\n kmovw %%k5, %0\n vzeroupper\n"
      : "=&r"(mask)
      : "r"(&victim_ends), "r"(pattern), "r"(result), "r"(&victim_computes)
      : "memory", "eax", "xmm21", "k5");
  VICTIM_CHECK(std::memcmp(pattern, result, sizeof pattern) == 0 && mask == 0xa5c3);
  return nullptr;
}

int main() {
  if (!__builtin_cpu_supports("avx512f")) victim_skip("avx512bw");
  victim_pass_computing(compute);
}
