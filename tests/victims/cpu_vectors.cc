// The xmm registers of a thread that computes all the while, without a call.
#include <emmintrin.h>

#include "computing.h"

static void* compute(void*) {
  long low[8];
  victim_computes = 1;
  asm volatile(
      "mov $1, %%rax\n"
      "movq %%rax, %%xmm8\n movq %%rax, %%xmm9\n movq %%rax, %%xmm10\n movq %%rax, %%xmm11\n"
      "movq %%rax, %%xmm12\n movq %%rax, %%xmm13\n movq %%rax, %%xmm14\n movq %%rax, %%xmm15\n"
      "paddq %%xmm8, %%xmm9\n paddq %%xmm9, %%xmm10\n paddq %%xmm10, %%xmm11\n"
      "paddq %%xmm11, %%xmm12\n paddq %%xmm12, %%xmm13\n paddq %%xmm13, %%xmm14\n"
      "1: pause\n cmpb $0, (%0)\n je 1b\n"
      "movq %%xmm8, 0(%1)\n movq %%xmm9, 8(%1)\n movq %%xmm10, 16(%1)\n movq %%xmm11, 24(%1)\n"
      "movq %%xmm12, 32(%1)\n movq %%xmm13, 40(%1)\n movq %%xmm14, 48(%1)\n movq %%xmm15, 56(%1)\n"
      :
      : "r"(&victim_ends), "r"(low)
      : "rax", "memory", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  for (int i = 0; i < 7; ++i) VICTIM_CHECK(low[i] == i + 1);
  VICTIM_CHECK(low[7] == 1);
  return nullptr;
}

int main() { victim_pass_computing(compute); }
