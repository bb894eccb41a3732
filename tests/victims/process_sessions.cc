// Children in a process group and in a session of their own, as a shell has jobs.
#include "victim.h"

int main() {
  pid_t children[2];
  int ready[2];
  VICTIM_CHECK(pipe(ready) == 0);
  for (int i = 0; i < 2; ++i) {
    children[i] = fork();
    if (children[i] != 0) continue;
    VICTIM_CHECK(i == 0 ? setpgid(0, 0) == 0 : setsid() == getpid());
    VICTIM_CHECK(write(ready[1], "x", 1) == 1);
    close(ready[0]);
    close(ready[1]);
    victim_await_signal();
    VICTIM_CHECK(getpgrp() == getpid() && (getsid(0) == getpid()) == (i == 1));
    _exit(0);
  }
  char text[2];
  for (char& c : text) VICTIM_CHECK(read(ready[0], &c, 1) == 1);
  close(ready[0]);
  close(ready[1]);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(getpgid(children[0]) == children[0] && getsid(children[1]) == children[1]);
  VICTIM_CHECK(killpg(children[0], SIGTERM) == 0 && killpg(children[1], SIGTERM) == 0);
  for (pid_t child : children) victim_check_child(child);
  victim_pass();
}
