// Handlers with their flags and masks, ignored signals, and the default.
#include "victim.h"

static void plain(int) {}
static void with_info(int, siginfo_t*, void*) {}

int main() {
  struct sigaction first {};
  first.sa_handler = plain;
  first.sa_flags = SA_RESTART | SA_NODEFER;
  sigaddset(&first.sa_mask, SIGUSR2);
  sigaddset(&first.sa_mask, SIGRTMAX);
  struct sigaction second {};
  second.sa_sigaction = with_info;
  second.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND;
  VICTIM_CHECK(sigaction(SIGUSR1, &first, nullptr) == 0);
  VICTIM_CHECK(sigaction(SIGRTMIN + 3, &second, nullptr) == 0);
  std::signal(SIGHUP, SIG_IGN);
  victim_ready();
  victim_wait();
  struct sigaction now {};
  VICTIM_CHECK(sigaction(SIGUSR1, nullptr, &now) == 0 && now.sa_handler == plain);
  VICTIM_CHECK((now.sa_flags & (SA_RESTART | SA_NODEFER)) == first.sa_flags);
  VICTIM_CHECK(sigismember(&now.sa_mask, SIGUSR2) && sigismember(&now.sa_mask, SIGRTMAX));
  VICTIM_CHECK(!sigismember(&now.sa_mask, SIGHUP));
  VICTIM_CHECK(sigaction(SIGRTMIN + 3, nullptr, &now) == 0 && now.sa_sigaction == with_info);
  VICTIM_CHECK((now.sa_flags & second.sa_flags) == second.sa_flags);
  VICTIM_CHECK(raise(SIGRTMIN + 3) == 0 && sigaction(SIGRTMIN + 3, nullptr, &now) == 0);
  VICTIM_CHECK(now.sa_handler == SIG_DFL);
  VICTIM_CHECK(sigaction(SIGHUP, nullptr, &now) == 0 && now.sa_handler == SIG_IGN);
  VICTIM_CHECK(sigaction(SIGUSR2, nullptr, &now) == 0 && now.sa_handler == SIG_DFL);
  victim_pass();
}
