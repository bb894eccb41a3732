// A thread that does nothing but make system call -1, which fails each time.
#include "computing.h"

static void* compute(void*) {
  victim_computes = 1;
  while (victim_ends == 0) VICTIM_CHECK(syscall(-1, 1, 2, 3) == -1 && errno == ENOSYS);
  return nullptr;
}

int main() { victim_pass_computing(compute); }
