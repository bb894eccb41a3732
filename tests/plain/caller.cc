// caller fork|run_on NODE: forks, or calls a function, there, and says where that ran. Where it
// does not come to that it says why, and ends with the code of the error.
#include <cstdio>
#include <cstring>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "telefork/telefork.hpp"

namespace {

std::string host() {
  char name[65] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

int fork_there(const char* node) {
  const pid_t pid = telefork::fork(node);
  if (pid == 0) {
    std::printf("forked to %s\n", host().c_str());
    std::fflush(stdout);
    _exit(0);
  }
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return 1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int call_there(const char* node) {
  const pid_t pid = getpid();
  pid_t pid_there = 0;
  const std::string there = telefork::run_on(node, [&] {
    pid_there = getpid();
    return host();
  });
  std::printf("called on %s\n", there.c_str());
  return pid_there == pid && getpid() == pid ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    return std::strcmp(argv[1], "fork") == 0 ? fork_there(argv[2]) : call_there(argv[2]);
  } catch (const telefork::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.code();
  }
}
