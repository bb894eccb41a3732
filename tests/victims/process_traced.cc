// A child traces its parent, as a debugger does.
#include <sys/ptrace.h>

#include "victim.h"

int main() {
  int told[2];
  VICTIM_CHECK(pipe(told) == 0);
  const pid_t tracer = fork();
  if (tracer == 0) {
    const bool traces = ptrace(PTRACE_SEIZE, getppid(), nullptr, nullptr) == 0;
    VICTIM_CHECK(write(told[1], traces ? "y" : "n", 1) == 1);
    close(told[0]);
    close(told[1]);
    victim_await_signal();
    _exit(0);
  }
  char answer = 0;
  VICTIM_CHECK(read(told[0], &answer, 1) == 1);
  close(told[0]);
  close(told[1]);
  if (answer != 'y') {
    kill(tracer, SIGKILL);
    waitpid(tracer, nullptr, 0);
    victim_skip("tracing a parent");
  }
  VICTIM_REFUSED("traces it");
  victim_ready();
  victim_await_signal();
  VICTIM_CHECK(kill(tracer, SIGTERM) == 0);
  victim_check_child(tracer);
  victim_pass();
}
