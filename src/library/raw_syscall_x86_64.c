// A system call as it is: nothing of libc's, whose errno, cancellation and stack guard are the
// calling thread's. For code that shares another thread's memory and has no such block of its own.
#include "library/internal.h"

long tf_raw_syscall(long number, long a, long b, long c, long d, long e) {
  long result;
  register long fourth __asm__("r10") = d;
  register long fifth __asm__("r8") = e;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
                   : "rcx", "r11", "memory");
  return result;
}
