// The flag ID, which says nothing but that the processor has CPUID, and which no kernel sets anew.
#include <pthread.h>

#include "victim.h"

static volatile char running = 0;
static volatile char end = 0;

static void* compute(void*) {
  unsigned long flags = 0;
  asm volatile(
      "pushfq\n orq $0x200000, (%%rsp)\n popfq\n movb $1, (%2)\n"
      "1: pause\n cmpb $0, (%1)\n je 1b\n pushfq\n popq %0\n"
      : "=&r"(flags)
      : "r"(&end), "r"(&running)
      : "memory", "cc");
  VICTIM_CHECK((flags & 0x200000) != 0);
  return nullptr;
}

int main() {
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, compute, nullptr) == 0);
  while (running == 0) sched_yield();
  VICTIM_LOSES("The flag ID of the processor");
  victim_ready();
  victim_wait();
  end = 1;
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
