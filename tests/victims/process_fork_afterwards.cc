// What forks, reaps and is told of its children after the move.
#include "victim.h"

static volatile int told = 0;

int main() {
  std::signal(SIGCHLD, [](int) { told = told + 1; });
  victim_ready();
  victim_wait();
  const pid_t child = fork();
  if (child == 0) _exit(getppid() == getpid() ? 1 : 0);
  victim_check_child(child);
  VICTIM_CHECK(told == 1);
  victim_pass();
}
