// An alternate stack: the handler runs there.
#include "victim.h"

static char stack[64 * 1024];
static bool was_there = false;

static void on_signal(int) {
  char local = 0;
  was_there = &local >= stack && &local < stack + sizeof stack;
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
  victim_ready();
  victim_wait();
  stack_t now{};
  VICTIM_CHECK(sigaltstack(nullptr, &now) == 0 && now.ss_sp == stack);
  VICTIM_CHECK(now.ss_size == sizeof stack && now.ss_flags == 0);
  VICTIM_CHECK(raise(SIGUSR1) == 0 && was_there);
  victim_pass();
}
