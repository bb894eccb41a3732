#include "tracee/frozen_tree.h"

#include <algorithm>
#include <csignal>

#include <fmt/format.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "tracee/snapshot.h"

namespace telefork::tracee {
namespace {

bool has_ended_whole(pid_t pid) {
  try {
    return kernel::read_stat(pid).state == 'Z' && kernel::list_threads(pid).size() < 2;
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return true;
  }
}

}  // namespace

bool FrozenTree::has(pid_t pid) const {
  return std::any_of(processes_.begin(), processes_.end(),
                     [pid](const FrozenProcess& process) { return process.pid() == pid; });
}

bool FrozenTree::freeze_new_children(const std::function<FrozenProcess(pid_t)>& freeze) {
  const std::size_t before = processes_.size();
  all_ = {processes_.front().pid()};
  copied_.clear();
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    const pid_t parent = processes_[i].pid();
    for (const pid_t child : kernel::list_children(parent)) {
      if (is_snapshot(child)) {
        copied_.insert(parent);
        continue;
      }
      if (std::find(all_.begin(), all_.end(), child) == all_.end()) all_.push_back(child);
      if (has(child) || has_ended_whole(child)) continue;
      try {
        processes_.push_back(freeze(child));
      } catch (const Error& error) {
        if (error.code() != Code::kGone) throw;
      }
    }
  }
  return processes_.size() != before;
}

FrozenTree FrozenTree::freeze(pid_t pid, const OptionsOf& options_of, const Patience& patience) {
  auto freeze = [&](pid_t one) { return FrozenProcess::freeze(one, options_of(one), patience); };
  FrozenTree frozen;
  frozen.processes_.push_back(freeze(pid));
  while (frozen.freeze_new_children(freeze)) {
  }
  return frozen;
}

FrozenTree FrozenTree::freeze(pid_t pid, const Ways& ways) {
  FrozenTree frozen;
  try {
    frozen.processes_.push_back(ways.freeze(pid));
    while (frozen.freeze_new_children(ways.freeze)) {
    }
  } catch (const Error&) {
    frozen.thaw(ways);
    throw;
  }
  return frozen;
}

void FrozenTree::thaw(const Ways& ways) {
  for (; !processes_.empty(); processes_.pop_back()) ways.thaw(std::move(processes_.back()));
}

FrozenProcess& FrozenTree::of(pid_t pid) {
  auto found = std::find_if(processes_.begin(), processes_.end(),
                            [pid](const FrozenProcess& process) { return process.pid() == pid; });
  if (found == processes_.end()) {
    throw Error(Code::kGone, fmt::format("process {} has ended", pid));
  }
  return *found;
}

void FrozenTree::thaw() {
  while (!processes_.empty()) processes_.pop_back();
}

void FrozenTree::let_go() {
  for (auto process = processes_.rbegin(); process != processes_.rend(); ++process) process->thaw();
}

// None of them is to see another one's end.
void FrozenTree::kill() {
  for (FrozenProcess& process : processes_) ::kill(process.pid(), SIGKILL);
  while (!processes_.empty()) {
    processes_.back().kill();
    processes_.pop_back();
  }
}

}  // namespace telefork::tracee
