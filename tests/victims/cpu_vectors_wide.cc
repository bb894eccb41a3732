// The upper halves of the ymm registers of a thread that computes without a call.
#include <pthread.h>

#include "victim.h"

static volatile char running = 0;
static volatile char end = 0;

static void* compute(void*) {
  unsigned char pattern[32];
  unsigned char result[32] = {};
  for (int i = 0; i < 32; ++i) pattern[i] = static_cast<unsigned char>(200 - i);
  asm volatile(
      "vmovdqu (%1), %%ymm5\n movb $1, (%3)\n"
      "1: pause\n cmpb $0, (%0)\n je 1b\n"
      "vmovdqu %%ymm5, (%2)\n vzeroupper\n" ::"r"(&end),
      "r"(pattern), "r"(result), "r"(&running)
      : "memory", "xmm5");
  VICTIM_CHECK(std::memcmp(pattern, result, sizeof pattern) == 0);
  return nullptr;
}

int main() {
  if (!__builtin_cpu_supports("avx")) victim_skip("avx");
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, compute, nullptr) == 0);
  while (running == 0) sched_yield();
  victim_ready();
  victim_wait();
  end = 1;
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
