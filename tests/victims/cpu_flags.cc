// The flags DF and CF, and the general registers, of a thread that computes without a call.
#include "computing.h"

static void* compute(void*) {
  unsigned long flags = 0;
  unsigned long sum = 0;
  asm volatile(
      "pushfq\n orq $0x401, (%%rsp)\n popfq\n"  // DF, CF
      "mov $0x1111, %%r8\n mov $0x2222, %%r9\n mov $0x3333, %%r10\n mov $0x4444, %%r11\n"
      "mov $0x5555, %%r12\n mov $0x6666, %%r13\n mov $0x7777, %%r14\n movb $1, (%3)\n"
      "1: pause\n movb (%2), %%al\n dec %%al\n jnz 1b\n"  // dec leaves CF alone
      "pushfq\n popq %0\n cld\n mov %%r8, %1\n add %%r9, %1\n add %%r10, %1\n add %%r11, %1\n"
      "add %%r12, %1\n add %%r13, %1\n add %%r14, %1\n"
      : "=&b"(flags), "=&d"(sum)
      : "S"(&victim_ends), "D"(&victim_computes)
      : "memory", "cc", "rax", "r8", "r9", "r10", "r11", "r12", "r13", "r14");
  VICTIM_CHECK((flags & 0x401) == 0x401);
  VICTIM_CHECK(sum == 0x1111 + 0x2222 + 0x3333 + 0x4444 + 0x5555 + 0x6666 + 0x7777);
  return nullptr;
}

int main() { victim_pass_computing(compute); }
