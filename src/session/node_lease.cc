#include "session/node_lease.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "session/guest_tree.h"

namespace telefork::session {
namespace {

bool is_stopped(pid_t pid) {
  try {
    return kernel::read_stat(pid).state == 'T';
  } catch (const Error&) {
    return true;  // it is gone
  }
}

}  // namespace

void NodeLease::set_terms(Lease::Duration stop, Lease::Duration kill) {
  if (stop.count() != 0) terms_.stop = stop;
  if (kill.count() != 0) terms_.kill = kill;
}

bool NodeLease::say_that_we_live() {
  auto now = Clock::now();
  if (now < next_heartbeat_) return false;
  link_.send_heartbeat();
  next_heartbeat_ = now + terms_.heartbeat();
  return true;
}

void NodeLease::throw_if_over() const {
  auto silence = Clock::now() - link_.last_heard();
  if (silence < terms_.kill) return;
  throw Error(Code::kLost, fmt::format("nothing was heard from home for {:.3g} s",
                                       std::chrono::duration<double>(silence).count()));
}

void NodeLease::hold() {
  throw_if_over();
  if (Clock::now() - link_.last_heard() >= terms_.stop) {
    stop();
  } else {
    let_go_on();
  }
}

// All but those that stand still already, which is the user's doing and lasts. Once a SIGSTOP waits
// for it a process makes no child any more (kernel/fork.c: copy_process): a round that finds nobody
// new has found all.
void NodeLease::stop() {
  if (std::exchange(holds_, true)) return;
  std::set<pid_t> seen;
  for (bool found = true; found;) {
    found = false;
    for (pid_t pid : list_descendants()) {
      if (!seen.insert(pid).second) continue;
      found = true;
      if (members_.has(pid) ? members_.is_stopped(pid) : is_stopped(pid)) continue;
      ::kill(pid, SIGSTOP);
      held_.push_back(pid);
    }
  }
}

void NodeLease::let_go_on() {
  if (!std::exchange(holds_, false)) return;
  // One that was killed meanwhile may have been reaped, and its pid be a stranger's.
  std::vector<pid_t> living = list_descendants();
  for (pid_t pid : std::exchange(held_, {})) {
    if (std::find(living.begin(), living.end(), pid) != living.end()) ::kill(pid, SIGCONT);
  }
}

}  // namespace telefork::session
