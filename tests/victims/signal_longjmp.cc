// A place to which a handler jumps back, set before the move and used after it.
#include <setjmp.h>

#include "victim.h"

static sigjmp_buf back;

static void on_fault(int, siginfo_t* info, void*) {
  VICTIM_CHECK(info->si_addr == reinterpret_cast<void*>(8));
  siglongjmp(back, 5);
}

int main() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  VICTIM_CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
  volatile int times = 0;
  if (sigsetjmp(back, 1) == 5) {
    sigset_t now;
    VICTIM_CHECK(times == 1 && sigprocmask(SIG_BLOCK, nullptr, &now) == 0);
    VICTIM_CHECK(!sigismember(&now, SIGSEGV));
    victim_pass();
  }
  victim_ready();
  victim_wait();
  times = 1;
  volatile char* nowhere = reinterpret_cast<volatile char*>(8);
  *nowhere = 1;
  victim_fail("address 8 can be written to");
}
