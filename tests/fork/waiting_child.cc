// waiting_child NODE: its child there says so on stdout and waits for ever; how it ended is told
// then.
#include <cstdio>

#include <sys/wait.h>
#include <unistd.h>

#include "telefork/telefork.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const pid_t pid = telefork_fork(argv[1]);
  if (pid < 0) {
    std::fprintf(stderr, "%s\n", telefork_error());
    return 1;
  }
  if (pid == 0) {
    if (write(1, "begun\n", 6) == 6) {
      for (;;) pause();
    }
    _exit(1);
  }
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return 1;
  std::printf(WIFEXITED(status) ? "exited %d\n" : "status %#x\n",
              WIFEXITED(status) ? WEXITSTATUS(status) : status);
  return 0;
}
