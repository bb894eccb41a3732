// Starts a program with exactly the descriptors that it is given.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace telefork::session {

struct Spawn {
  std::string program;                 // looked up in PATH where it has no slash
  std::vector<std::string> arguments;  // without the program's own name
  std::vector<int> fds;                // become 3, 4, ... there
  bool new_session = true;             // setsid(2)
  // Runs in the child before exec, as the last thing: system calls only, 0 or an errno.
  std::function<int()> prepare;
  std::array<int, 3> standard = {-1, -1, -1};                // become 0, 1, 2 there; -1: /dev/null
  std::optional<std::vector<std::string>> environment = {};  // else this process's
};

// The pid of the child. Signals are as a shell would leave them there, soft limits what this
// process was given (base/soft_limits.h), and every other descriptor is closed. Throws where the
// program cannot be exec'ed, naming it.
pid_t spawn(const Spawn& what);

}  // namespace telefork::session
