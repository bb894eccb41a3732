// The x87 unit: its control word, its rounding, and what is on its stack.
#include "victim.h"

int main() {
  unsigned short control = 0x0c7f;  // round toward zero, extended precision replaced by single
  asm volatile("fninit\n fldcw %0\n fldpi\n fldl2e\n" ::"m"(control));
  victim_ready();
  victim_wait();
  unsigned short now = 0;
  double log2e = 0;
  double pi = 0;
  asm volatile("fnstcw %0\n fstpl %1\n fstpl %2\n fninit\n" : "=m"(now), "=m"(log2e), "=m"(pi));
  VICTIM_CHECK(now == control);
  VICTIM_CHECK(pi > 3.1415 && pi < 3.1416 && log2e > 1.4426 && log2e < 1.4427);
  victim_pass();
}
