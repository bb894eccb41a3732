// A parent that waits for its child in wait4(), and a child that waits for its parent's word.
#include "victim.h"

int main() {
  int word[2];
  VICTIM_CHECK(pipe(word) == 0);
  const pid_t middle = fork();
  if (middle == 0) {
    const pid_t child = fork();
    if (child == 0) {
      close(word[1]);
      char c = 0;
      _exit(read(word[0], &c, 1) == 1 ? 40 + (c == 'w') : 1);
    }
    close(word[0]);
    close(word[1]);
    int status = 0;
    VICTIM_CHECK(waitpid(child, &status, 0) == child);
    _exit(WEXITSTATUS(status));
  }
  victim_await_syscall(middle, middle, SYS_wait4);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(write(word[1], "w", 1) == 1);
  int status = 0;
  VICTIM_CHECK(waitpid(middle, &status, 0) == middle && WEXITSTATUS(status) == 41);
  victim_pass();
}
