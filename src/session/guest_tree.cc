#include "session/guest_tree.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_task.h"
#include "net/deadline.h"
#include "net/stream.h"

namespace telefork::session {

namespace {

std::vector<pid_t> children_of(pid_t pid) {
  try {
    return kernel::list_children(pid);
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return {};
  }
}

// Those for which `skips` says so are left out, with all that descends from them.
template <class Skips>
std::vector<pid_t> list_descendants_but(Skips skips) {
  std::vector<pid_t> found;
  std::vector<pid_t> open = {::getpid()};
  while (!open.empty()) {
    pid_t parent = open.back();
    open.pop_back();
    for (pid_t child : children_of(parent)) {
      if (skips(child)) continue;
      found.push_back(child);
      open.push_back(child);
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

bool has_ended(const UniqueFd& process) {
  pollfd end{process.get(), POLLIN, 0};
  return net::poll_until({&end, 1}, net::Deadline::now()) > 0;
}

// By this process.
bool is_waited_for(pid_t pid) try {
  const kernel::Status status = kernel::read_status(pid);
  return status.ppid == ::getpid() ||
         (status.tracer_pid != 0 && kernel::is_thread_of(::getpid(), status.tracer_pid));
} catch (const Error& error) {
  if (error.code() != Code::kGone) throw;
  return false;
}

// False too where they change just now.
bool has_only_zombies(pid_t parent) {
  const std::vector<pid_t> children = children_of(parent);
  for (pid_t child : children) {
    try {
      if (kernel::is_alive(kernel::identify(child))) return false;
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
      return false;
    }
  }
  // What the last of them left is here before it is a zombie (kernel/exit.c: exit_notify).
  return children == children_of(parent);
}

}  // namespace

std::vector<pid_t> list_descendants() {
  return list_descendants_but([](pid_t) { return false; });
}

bool descends_from(pid_t ancestor, pid_t pid) {
  try {
    while (pid != ancestor && pid > 1) pid = kernel::read_stat(pid).ppid;
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return false;
  }
  return pid == ancestor;
}

std::vector<pid_t> list_guests() { return list_descendants_but(is_helper); }

Killing kill_descendants_once() {
  Killing killing;
  for (pid_t pid : list_descendants()) {
    UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process || has_ended(process)) continue;
    if (is_helper(pid) && !has_only_zombies(pid)) {
      killing.spares = true;
    } else if (::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) == 0) {
      killing.has_own = killing.has_own || is_waited_for(pid);
      killing.dying.push_back(std::move(process));
    }
  }
  return killing;
}

void kill_descendants() {
  for (;;) {
    const Killing killing = kill_descendants_once();
    // Of its own wait(2) tells also what a traced one still stops for as it ends.
    if (!killing.dying.empty() && !killing.has_own) {
      std::vector<pollfd> entries;
      for (const UniqueFd& process : killing.dying) entries.push_back({process.get(), POLLIN, 0});
      net::poll_until(entries, net::Deadline::never());
    }
    // Whoever was orphaned by that is our child now; one that forked meanwhile is found next time.
    const bool may_wait = killing.has_own || (killing.dying.empty() && !killing.spares);
    int status = 0;
    pid_t pid = ::waitpid(-1, &status, __WALL | (may_wait ? 0 : WNOHANG));
    while (pid > 0) pid = ::waitpid(-1, &status, __WALL | WNOHANG);
    if (pid < 0 && errno == ECHILD) return;
  }
}

}  // namespace telefork::session
