// Two children that live, and answer through their exit codes.
#include "victim.h"

int main() {
  pid_t children[2];
  for (int i = 0; i < 2; ++i) {
    children[i] = fork();
    VICTIM_CHECK(children[i] >= 0);
    if (children[i] == 0) {
      const pid_t parent = getppid();
      victim_await_signal();
      _exit(getppid() == parent ? 10 + i : 1);
    }
  }
  victim_ready();
  victim_wait();
  for (int i = 0; i < 2; ++i) {
    int status = 0;
    VICTIM_CHECK(kill(children[i], SIGTERM) == 0);
    VICTIM_CHECK(waitpid(children[i], &status, 0) == children[i]);
    VICTIM_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 10 + i);
  }
  victim_pass();
}
