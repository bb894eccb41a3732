// A child that a signal has stopped, and stays so.
#include "victim.h"

int main() {
  const pid_t child = fork();
  VICTIM_CHECK(child >= 0);
  if (child == 0) {
    raise(SIGSTOP);
    _exit(5);
  }
  int status = 0;
  VICTIM_CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
  victim_ready();
  victim_wait();
  VICTIM_CHECK(waitpid(child, &status, WNOHANG) == 0 && kill(child, SIGCONT) == 0);
  VICTIM_CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
  victim_pass();
}
