// A child that has ended, and whose status nobody has asked for.
#include "victim.h"

int main() {
  const pid_t child = fork();
  VICTIM_CHECK(child >= 0);
  if (child == 0) _exit(33);
  siginfo_t info{};
  VICTIM_CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
  victim_ready();
  victim_wait();
  int status = 0;
  VICTIM_CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 33);
  victim_pass();
}
