// Stopped and moved while a handler runs on the alternate stack.
#include "victim.h"

static char stack[64 * 1024];
static volatile int handled = 0;

static void on_signal(int) {
  stack_t now{};
  victim_ready();
  victim_wait();
  VICTIM_CHECK(sigaltstack(nullptr, &now) == 0 && (now.ss_flags & SS_ONSTACK) != 0);
  VICTIM_CHECK(now.ss_sp == stack);
  handled = 1;
}

int main() {
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  VICTIM_CHECK(sigaltstack(&alternate, nullptr) == 0);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  VICTIM_CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  volatile double kept = 1.25;
  VICTIM_CHECK(raise(SIGUSR1) == 0);
  VICTIM_CHECK(handled == 1 && kept == 1.25);
  stack_t now{};
  VICTIM_CHECK(sigaltstack(nullptr, &now) == 0 && now.ss_flags == 0);
  victim_pass();
}
