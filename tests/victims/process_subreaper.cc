// A subreaper to whom a grandchild has come.
#include <sys/prctl.h>

#include "victim.h"

int main() {
  int told[2];
  VICTIM_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && pipe(told) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      close(told[0]);
      close(told[1]);
      victim_await_signal();
      _exit(0);
    }
    _exit(write(told[1], &grandchild, sizeof grandchild) == sizeof grandchild ? 0 : 1);
  }
  pid_t grandchild = 0;
  victim_check_child(child);
  VICTIM_CHECK(read(told[0], &grandchild, sizeof grandchild) == sizeof grandchild);
  close(told[0]);
  close(told[1]);
  victim_ready();
  victim_wait();
  int reaper = 0;
  VICTIM_CHECK(prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0 && reaper == 1);
  VICTIM_CHECK(kill(grandchild, SIGTERM) == 0);
  victim_check_child(grandchild);
  victim_pass();
}
