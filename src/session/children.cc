#include "session/children.h"

#include <cerrno>
#include <csignal>

#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_task.h"

namespace telefork::session {

Children::Children() { ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); }

void Children::add_agent(pid_t agent) {
  agents_.insert(agent);
  agent_sessions_.insert(agent);
}

void Children::reap(const std::function<void(pid_t pid)>& on_reaped) {
  int status = 0;
  for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG | __WALL)) > 0;) {
    if (keepers_.count(pid) != 0 && WIFSIGNALED(status)) {
      spdlog::error("keeper {} was killed by signal {}", pid, WTERMSIG(status));
    }
    forget(pid);
    on_reaped(pid);
  }
}

void Children::forget(pid_t pid) {
  agents_.erase(pid);
  condemned_.erase(pid);
  forget_agents();
  // What it has left are our children already (kernel/exit.c: exit_notify).
  if (keepers_.erase(pid) != 0) has_orphans_ = true;
}

// The number may become another process's once nobody of the agent's group is left, which is so
// only when the last of it was reaped: here.
void Children::forget_agents() {
  std::erase_if(agent_sessions_, [this](pid_t agent) {
    return agents_.count(agent) == 0 && ::kill(-agent, 0) != 0 && errno == ESRCH;
  });
}

// Sessions of an agent that ended come to us too, and are to live; they are still in the agent's
// session (setsid(2)).
bool Children::is_ours(pid_t child) const {
  return keepers_.count(child) != 0 || agents_.count(child) != 0 ||
         agent_sessions_.count(::getsid(child)) != 0;
}

void Children::kill_orphans(const std::function<bool(pid_t)>& is_known) {
  if (!has_orphans_) return;
  try {
    has_orphans_ = find_and_kill(is_known);
  } catch (const Error& error) {
    spdlog::error("looking for what a keeper has left: {}", error.text());
  }
}

// What a keeper that was killed left behind has come to us, and what that leaves comes as soon as
// it is dead. False: nothing of it is there. The list misses nobody, as a child leaves it only when
// it is reaped, which nobody does meanwhile.
bool Children::find_and_kill(const std::function<bool(pid_t)>& is_known) {
  bool found = false;
  for (pid_t child : kernel::list_children(::getpid())) {
    if (is_ours(child) || is_known(child)) continue;
    found = true;
    if (condemned_.insert(child).second) {
      spdlog::warn("killing {}, whose keeper has died", child);
    }
    ::kill(child, SIGKILL);
  }
  return found;
}

}  // namespace telefork::session
