// A thread that reads the time stamp counter all the while.
#include <x86intrin.h>

#include "computing.h"

static void* compute(void*) {
  unsigned long last = __rdtsc();
  victim_computes = 1;
  while (victim_ends == 0) {
    const unsigned long now = __rdtsc();
    VICTIM_CHECK(now >= last || last - now < 1'000'000);
    last = now;
  }
  return nullptr;
}

int main() { victim_pass_computing(compute); }
