#include "session/guest_members.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_task.h"
#include "session/guest_tree.h"

namespace telefork::session {
namespace {

using Event = tracee::StopWatch::Event;

// As a session whose process has ended says it: how it ended is not known.
constexpr int kUnknownEnd = 125 << 8;

// It has ended; of one that its parent has waited for nobody knows how.
int end_of(ProcessId id) {
  try {
    const kernel::Stat stat = kernel::read_stat(id.pid);
    if (stat.start_time == id.start_time && stat.state == 'Z') {
      return static_cast<int>(stat.exit_code) & 0xffff;
    }
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
  }
  return kUnknownEnd;
}

}  // namespace

GuestMembers::GuestMembers(pid_t first, pid_t first_sees_itself,
                           std::map<pid_t, pid_t> groups_before)
    : first_(first), groups_before_(std::move(groups_before)) {
  pids_[first] = {first_sees_itself, group_before(first_sees_itself)};
}

pid_t GuestMembers::group_before(pid_t guest_pid) const {
  auto found = groups_before_.find(guest_pid);
  return found == groups_before_.end() ? 0 : found->second;
}

void GuestMembers::add(restore::TreeRestorer::Watched watched) {
  const pid_t pid = watched.watch.pid();
  pids_[pid] = {watched.guest_pid, group_before(watched.guest_pid)};
  watches_.emplace(pid, std::move(watched.watch));
}

void GuestMembers::end(pid_t pid, int status, std::vector<Change>& changes) {
  changes.push_back({pids_.at(pid).guest_pid, status});
  watches_.erase(pid);
  lent_.erase(pid);
  pids_.erase(pid);
}

void GuestMembers::add_changes(pid_t pid, const std::vector<Event>& events,
                               std::vector<Change>& changes) {
  for (const Event& event : events) {
    switch (event.kind) {
      case Event::Kind::kStopped:
        changes.push_back({pids_.at(pid).guest_pid, stopped_by(event.signal)});
        break;
      case Event::Kind::kContinued:
        changes.push_back({pids_.at(pid).guest_pid, kContinued});
        break;
      case Event::Kind::kEnded:
        return end(pid, event.wait_status, changes);
    }
  }
}

bool GuestMembers::is_stopped(pid_t pid) const {
  auto lent = lent_.find(pid);
  return lent == lent_.end() ? watches_.at(pid).stopped() : lent->second.stopped;
}

// What it is already is no change: both may have seen it.
std::vector<GuestMembers::Change> GuestMembers::take_of_lent(pid_t pid, int status) {
  std::vector<Change> changes;
  const bool stopped = WIFSTOPPED(status);
  if (!stopped && !WIFCONTINUED(status)) {
    end(pid, status, changes);
  } else if (std::exchange(lent_.at(pid).stopped, stopped) != stopped) {
    changes.push_back({pids_.at(pid).guest_pid, status});
  }
  return changes;
}

std::vector<GuestMembers::Change> GuestMembers::take(pid_t pid, int status) {
  if (lent_.count(pid) != 0) return take_of_lent(pid, status);
  std::vector<Change> changes;
  add_changes(pid, watches_.at(pid).take(status), changes);
  return changes;
}

tracee::FrozenProcess GuestMembers::freeze(pid_t pid, const tracee::Patience& patience,
                                           std::vector<Change>& changes) {
  auto watch = watches_.find(pid);
  if (watch == watches_.end()) {
    return tracee::FrozenProcess::freeze(pid, PTRACE_O_EXITKILL, patience);
  }
  std::vector<Event> events;
  try {
    tracee::FrozenProcess frozen =
        tracee::FrozenProcess::freeze(watch->second, PTRACE_O_EXITKILL, patience, events);
    add_changes(pid, events, changes);
    return frozen;
  } catch (const Error&) {
    add_changes(pid, events, changes);
    throw;
  }
}

void GuestMembers::thaw(tracee::FrozenProcess frozen) {
  auto watch = watches_.find(frozen.pid());
  if (watch != watches_.end()) frozen.thaw(watch->second);
}

std::vector<GuestMembers::Change> GuestMembers::look() {
  std::vector<Change> changes;
  std::vector<pid_t> watched;
  for (const auto& [pid, watch] : watches_) {
    if (watch.pid() != 0) watched.push_back(pid);
  }
  for (const pid_t pid : watched) add_changes(pid, watches_.at(pid).on_sigchld(), changes);
  return changes;
}

std::vector<GuestMembers::Change> GuestMembers::find_lost() {
  std::vector<Change> changes;
  std::vector<pid_t> lost;
  for (const auto& [pid, watch] : watches_) {
    siginfo_t info{};
    const int waited = ::waitid(P_PID, static_cast<id_t>(pid), &info,
                                WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL);
    if (waited != 0 && errno == ECHILD) lost.push_back(pid);
  }
  for (const pid_t pid : lost) {
    watches_.at(pid).release();
    watches_.erase(pid);
    try {
      watches_.emplace(pid, tracee::StopWatch::seize(pid));
    } catch (const Error&) {
      end(pid, kUnknownEnd, changes);
    }
  }
  return changes;
}

std::vector<GuestMembers::Lent> GuestMembers::lend(const std::vector<pid_t>& tree,
                                                   const tracee::Patience& patience,
                                                   std::vector<Change>& changes) {
  tracee::ChangeWait wait(patience);
  std::vector<Lent> lent;
  for (const pid_t pid : tree) {
    auto watch = watches_.find(pid);
    if (watch == watches_.end()) continue;
    std::vector<Event> events;
    try {
      std::optional<tracee::TracedThread> leader = watch->second.hold(wait, events);
      if (leader) {
        const OnLoan loan{kernel::identify(pid), watch->second.stopped()};
        lent_.emplace(pid, loan);
        lent.push_back({pid, loan.stopped});
        // Where it is being killed that is seen when it is taken back.
        if (!leader->try_detach()) leader->forget();
        watches_.erase(watch);
      }
      add_changes(pid, events, changes);
    } catch (const Error&) {
      add_changes(pid, events, changes);
      std::vector<pid_t> back;
      for (const Lent& one : lent) back.push_back(one.pid);
      take_back(back, changes);
      throw;
    }
  }
  return lent;
}

void GuestMembers::note_held(const tracee::HeldProcess& held) {
  auto lent = lent_.find(held.process.pid);
  if (lent != lent_.end() && lent->second.id == held.process) lent->second.held = held;
}

bool GuestMembers::try_watch_again(pid_t pid, tracee::ChangeWait& wait,
                                   std::vector<Change>& changes) {
  const OnLoan& loan = lent_.at(pid);
  if (loan.held && tracee::is_parked(*loan.held)) return false;
  std::vector<Event> events;
  try {
    watches_.emplace(pid, tracee::StopWatch::seize_again(pid, loan.stopped, wait, events));
  } catch (const Error&) {
    if (kernel::is_alive(loan.id)) return false;
    end(pid, end_of(loan.id), changes);
    return true;
  }
  lent_.erase(pid);
  add_changes(pid, events, changes);
  return true;
}

std::vector<pid_t> GuestMembers::take_back(const std::vector<pid_t>& pids,
                                           std::vector<Change>& changes) {
  tracee::ChangeWait wait(tracee::Patience{std::chrono::seconds(1)});
  std::vector<pid_t> left;
  for (const pid_t pid : pids) {
    auto lent = lent_.find(pid);
    if (lent == lent_.end()) continue;
    if (!kernel::is_alive(lent->second.id)) {
      end(pid, end_of(ProcessId(lent->second.id)), changes);
    } else if (!try_watch_again(pid, wait, changes)) {
      left.push_back(pid);
    }
  }
  return left;
}

// Who is lent is reaped elsewhere, and its pid may be another one's since.
pid_t GuestMembers::find(pid_t guest_pid) const {
  if (guest_pid == 0) return pids_.count(first_) != 0 ? first_ : 0;
  for (const auto& [pid, place] : pids_) {
    if (place.guest_pid != guest_pid) continue;
    auto lent = lent_.find(pid);
    return lent == lent_.end() || kernel::is_alive(lent->second.id) ? pid : 0;
  }
  return 0;
}

pid_t GuestMembers::group_of(const std::vector<pid_t>& pids) const {
  const pid_t group = ::getpgid(pids.front());
  if (group <= 1 || group == ::getpgrp()) return 0;
  for (const pid_t pid : pids) {
    if (::getpgid(pid) != group) return 0;
  }
  for (const auto& [other, place] : pids_) {
    const bool is_named = std::find(pids.begin(), pids.end(), other) != pids.end();
    if (!is_named && ::getpgid(other) == group) return 0;
  }
  return group;
}

std::vector<pid_t> GuestMembers::list_new_of_group(pid_t group) const {
  std::vector<pid_t> found;
  for (const pid_t other : list_guests()) {
    if (pids_.count(other) == 0 && ::getpgid(other) == group) found.push_back(other);
  }
  return found;
}

std::vector<pid_t> GuestMembers::list_others_of_group(pid_t pid) const {
  const pid_t group = ::getpgid(pid);
  if (group <= 1 || group == ::getpgrp()) return {};
  const pid_t before = pids_.at(pid).group_before;
  for (const auto& [other, place] : pids_) {
    if (other == pid) break;
    if (place.group_before == before && ::getpgid(other) == group) return {};
  }
  return list_new_of_group(group);
}

std::vector<std::string> list_made_namespaces(pid_t guest) {
  std::vector<std::string> made;
  for (const char* name : {"pid", "mnt", "user"}) {
    std::string link = kernel::read_ns_link(guest, name);
    if (link != kernel::read_ns_link(::getpid(), name)) made.push_back(std::move(link));
  }
  return made;
}

}  // namespace telefork::session
