// Stopped in a handler that has interrupted another one, each with a mask of its own.
#include "victim.h"

static int depth = 0;

static void on_signal(int signal) {
  ++depth;
  if (signal == SIGUSR1) {
    VICTIM_CHECK(raise(SIGUSR2) == 0);
  } else {
    victim_ready();
    victim_wait();
    VICTIM_CHECK(depth == 2);
  }
  sigset_t now;
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, nullptr, &now) == 0 && sigismember(&now, signal));
  VICTIM_CHECK(sigismember(&now, SIGUSR1) && sigismember(&now, SIGHUP));
  --depth;
}

int main() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaddset(&action.sa_mask, SIGHUP);
  VICTIM_CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  VICTIM_CHECK(sigaction(SIGUSR2, &action, nullptr) == 0 && raise(SIGUSR1) == 0);
  sigset_t now;
  VICTIM_CHECK(depth == 0 && sigprocmask(SIG_BLOCK, nullptr, &now) == 0);
  VICTIM_CHECK(!sigismember(&now, SIGUSR1) && !sigismember(&now, SIGHUP));
  victim_pass();
}
