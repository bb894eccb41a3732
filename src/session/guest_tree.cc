#include "session/guest_tree.h"

#include <cerrno>
#include <csignal>

#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_task.h"

namespace telefork::session {

std::vector<pid_t> list_descendants() {
  std::vector<pid_t> found;
  std::vector<pid_t> open = {::getpid()};
  while (!open.empty()) {
    pid_t parent = open.back();
    open.pop_back();
    try {
      for (pid_t child : kernel::list_children(parent)) {
        found.push_back(child);
        open.push_back(child);
      }
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  }
  return found;
}

void signal_descendants(int signal) {
  for (pid_t pid : list_descendants()) ::kill(pid, signal);
}

void kill_descendants() {
  for (;;) {
    signal_descendants(SIGKILL);
    // Whoever was orphaned by that is our child now; one that forked meanwhile is found next time.
    int status = 0;
    pid_t pid = ::waitpid(-1, &status, __WALL);
    if (pid < 0 && errno == ECHILD) return;
  }
}

}  // namespace telefork::session
