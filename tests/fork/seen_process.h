// Processes that a test did not start itself, as /proc shows them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace fork_test {

struct SeenProcess {
  pid_t pid = 0;
  pid_t parent = 0;
  char state = 0;
  std::string name;  // its first fifteen letters
};

// Empty when it is gone.
std::optional<SeenProcess> look_at(pid_t pid);
// All that descend from this process.
std::vector<SeenProcess> all_descendants();
// Between two looks at what no event tells of: what is awaited needs the processor meanwhile.
void pause_between_looks();
// Returns when it is dead; its parent may not have reaped it.
void kill_and_await(pid_t pid);

}  // namespace fork_test
