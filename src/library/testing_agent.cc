// An agent for the library's tests. It answers every request with a refusal that says how it itself
// was started: what may be left in it of the program that asked.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <dirent.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi/agent.h"

namespace {

std::string list_descriptors() {
  std::string list;
  for (int fd = 0; fd < 1024; ++fd) {
    char path[64], target[256] = {};
    std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (readlink(path, target, sizeof target - 1) < 0) continue;
    const bool socket = std::strncmp(target, "socket:", 7) == 0;
    list += std::to_string(fd) + (socket ? "=socket " : std::string("=") + target + " ");
  }
  return list;
}

std::string list_signals() {
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  std::string list;
  for (int number = 1; number <= SIGRTMAX; ++number) {
    struct sigaction action {};
    if (sigismember(&blocked, number) == 1) list += "blocked " + std::to_string(number) + " ";
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_DFL) {
      list += "handled " + std::to_string(number) + " ";
    }
  }
  return list;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || std::strcmp(argv[1], "--fd") != 0) return 2;
  const int fd = std::atoi(argv[2]);
  telefork_agent_request request;
  while (recv(fd, &request, sizeof request, MSG_WAITALL) == ssize_t{sizeof request}) {
    char folder[256] = {};
    if (getcwd(folder, sizeof folder) == nullptr) return 1;
    const std::string text = list_descriptors() + list_signals() +
                             (getsid(0) == getpid() ? "own session " : "") + "in " + folder;
    telefork_agent_reply reply{};
    reply.header = {TELEFORK_MAGIC_REPLY, TELEFORK_ABI_VERSION, sizeof reply, 0};
    reply.code = 3;
    std::strncpy(reply.message, text.c_str(), sizeof reply.message - 1);
    if (send(fd, &reply, sizeof reply, MSG_NOSIGNAL) < 0) return 1;
  }
  return 0;
}
