// The flag ID, which says nothing but that the processor has CPUID, and which no kernel sets anew.
#include "computing.h"

static void* compute(void*) {
  unsigned long flags = 0;
  asm volatile(
      "pushfq\n orq $0x200000, (%%rsp)\n popfq\n movb $1, (%2)\n"
      "1: pause\n cmpb $0, (%1)\n je 1b\n pushfq\n popq %0\n"
      : "=&r"(flags)
      : "r"(&victim_ends), "r"(&victim_computes)
      : "memory", "cc");
  VICTIM_CHECK((flags & 0x200000) != 0);
  return nullptr;
}

int main() {
  VICTIM_LOSES("The flag ID of the processor");
  victim_pass_computing(compute);
}
