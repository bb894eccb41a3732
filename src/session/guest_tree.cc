#include "session/guest_tree.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <iterator>
#include <string>
#include <string_view>

#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_task.h"

namespace telefork::session {

namespace {

// Those for which `skips` says so are left out, with all that descends from them.
template <class Skips>
std::vector<pid_t> list_descendants_but(Skips skips) {
  std::vector<pid_t> found;
  std::vector<pid_t> open = {::getpid()};
  while (!open.empty()) {
    pid_t parent = open.back();
    open.pop_back();
    try {
      for (pid_t child : kernel::list_children(parent)) {
        if (skips(child)) continue;
        found.push_back(child);
        open.push_back(child);
      }
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  }
  return found;
}

// By its name.
bool is_helper(pid_t pid) {
  try {
    constexpr std::string_view kNames[] = {"telefork-agent", "telefork-keeper", "telepad"};
    std::string name = kernel::read_comm(pid, pid);
    return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
  } catch (const Error& error) {
    if (error.code() != Code::kGone && error.error() != ENOENT) throw;
    return true;  // it is gone
  }
}

}  // namespace

std::vector<pid_t> list_descendants() {
  return list_descendants_but([](pid_t) { return false; });
}

std::vector<pid_t> list_guests() { return list_descendants_but(is_helper); }

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
