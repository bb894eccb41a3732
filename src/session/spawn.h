// Starts a program with exactly the descriptors that it is given.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace telefork::session {

struct Spawn {
  std::string program;
  std::vector<std::string> arguments;  // without the program's own name
  std::vector<int> fds;                // become 3, 4, ... there
  bool new_session = true;             // setsid(2)
  // Runs in the child before exec, as the last thing: system calls only, 0 or an errno.
  std::function<int()> prepare;
};

// The pid of the child. 0, 1 and 2 are /dev/null there, signals are as a shell would leave them,
// and every other descriptor is closed. Throws where the program cannot be exec'ed, naming it.
pid_t spawn(const Spawn& what);

}  // namespace telefork::session
