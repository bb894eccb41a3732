// An alternate stack that is disarmed while its handler runs (SS_AUTODISARM), in a handler.
#include "victim.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static char stack[64 * 1024];

static void on_signal(int) {
  stack_t now{};
  victim_ready();
  victim_wait();
  VICTIM_CHECK(sigaltstack(nullptr, &now) == 0 && now.ss_flags == SS_DISABLE);
}

int main() {
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  alternate.ss_flags = static_cast<int>(SS_AUTODISARM);
  VICTIM_CHECK(sigaltstack(&alternate, nullptr) == 0);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  VICTIM_CHECK(sigaction(SIGUSR1, &action, nullptr) == 0 && raise(SIGUSR1) == 0);
  stack_t now{};
  VICTIM_CHECK(sigaltstack(nullptr, &now) == 0 && now.ss_sp == stack);
  VICTIM_CHECK((static_cast<unsigned>(now.ss_flags) & SS_AUTODISARM) != 0);
  victim_pass();
}
