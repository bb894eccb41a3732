// A victim that waits in sigsuspend with a handler for SIGTERM itself.
#include "victim.h"

static volatile int told = 0;

static void on_term(int) { told = told + 1; }

int main() {
  struct sigaction action {};
  action.sa_handler = on_term;
  VICTIM_CHECK(sigaction(SIGTERM, &action, nullptr) == 0);
  sigset_t none;
  sigemptyset(&none);
  victim_ready();
  while (told == 0) VICTIM_CHECK(sigsuspend(&none) == -1 && errno == EINTR);
  sigset_t now;
  VICTIM_CHECK(told == 1 && sigprocmask(SIG_BLOCK, nullptr, &now) == 0);
  VICTIM_CHECK(sigismember(&now, SIGTERM) == 1);
  victim_pass();
}
