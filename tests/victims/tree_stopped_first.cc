// The first of several is stopped by a signal, and one child; another runs.
#include "victim.h"

int main() {
  const pid_t stopped = fork();
  if (stopped == 0) {
    raise(SIGSTOP);
    victim_await_signal();
    _exit(5);
  }
  int status = 0;
  VICTIM_CHECK(waitpid(stopped, &status, WUNTRACED) == stopped && WIFSTOPPED(status));
  const pid_t running = fork();
  if (running == 0) {
    victim_await_signal();
    _exit(6);
  }
  VICTIM_STOPS();
  victim_ready();
  VICTIM_CHECK(raise(SIGSTOP) == 0);
  victim_wait();
  VICTIM_CHECK(waitpid(-1, &status, WNOHANG | WUNTRACED) == 0);
  VICTIM_CHECK(kill(running, SIGTERM) == 0);
  VICTIM_CHECK(waitpid(running, &status, 0) == running && WEXITSTATUS(status) == 6);
  VICTIM_CHECK(kill(stopped, SIGTERM) == 0 && kill(stopped, SIGCONT) == 0);
  VICTIM_CHECK(waitpid(stopped, &status, 0) == stopped && WEXITSTATUS(status) == 5);
  victim_pass();
}
