// A zmm register beyond the sixteenth, and a mask register.
#include <pthread.h>

#include "victim.h"

static volatile char running = 0;
static volatile char end = 0;

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
      : "r"(&end), "r"(pattern), "r"(result), "r"(&running)
      : "memory", "eax", "xmm21", "k5");
  VICTIM_CHECK(std::memcmp(pattern, result, sizeof pattern) == 0 && mask == 0xa5c3);
  return nullptr;
}

int main() {
  if (!__builtin_cpu_supports("avx512f")) victim_skip("avx512bw");
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, compute, nullptr) == 0);
  while (running == 0) sched_yield();
  victim_ready();
  victim_wait();
  end = 1;
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
