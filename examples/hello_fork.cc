// hello_fork NODE: the smallest fork onto another machine.
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "telefork/telefork.hpp"

int main(int argc, char** argv) try {
  utsname here{}, there{};
  uname(&here);
  const pid_t pid = telefork::fork(argc > 1 ? argv[1] : "local");
  if (pid == 0) {
    uname(&there);
    std::printf("child:  forked on %s, running on %s\n", here.nodename, there.nodename);
    std::fflush(stdout);
    _exit(42);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  std::printf("parent: still on %s; my child %d ended with %d\n", here.nodename, pid,
              WEXITSTATUS(status));
} catch (const telefork::Error& error) {
  std::fprintf(stderr, "hello_fork: %s\n", error.what());
  return 1;
}
