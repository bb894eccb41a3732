// System calls that the kernel hands back to the program (Syscall User Dispatch).
#include <sys/prctl.h>

#include "victim.h"

int main() {
  constexpr int kSetDispatch = 59;
  static char selector = 0;  // all of them pass
  if (prctl(kSetDispatch, 1, 0, 0, &selector) != 0) victim_skip("syscall_user_dispatch");
  VICTIM_REFUSED_ONCE_STOPPED("has its system calls dispatched (PR_SET_SYSCALL_USER_DISPATCH)");
  victim_ready();
  victim_wait();
  std::signal(SIGSYS, [](int) {
    selector = 0;
    victim_pass();
  });
  selector = 1;
  syscall(SYS_getpgrp);
  selector = 0;
  victim_fail("a system call was not dispatched");
}
