#include "app/held.h"

#include <string>
#include <vector>

#include <fmt/format.h>

#include "app/places.h"
#include "base/error.h"
#include "capture/tree.h"
#include "kernel/procfs_task.h"
#include "session/guest_tree.h"
#include "session/registry.h"
#include "session/watch_loan.h"
#include "tracee/held_process.h"

namespace telefork::app {
namespace {

// Empty where there is none: whoever asks says so.
std::vector<pid_t> try_list_tree(pid_t pid) {
  try {
    return capture::list_tree(pid);
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return {};
  }
}

// 0 too where it has ended.
pid_t try_read_tracer(pid_t pid) {
  try {
    return kernel::read_status(pid).tracer_pid;
  } catch (const Error&) {
    return 0;
  }
}

std::string why_away(const session::SessionInfo& info) {
  if (info.role == "guest") {
    return "it has come here with its parent, and telefork follows it: it may be moved on from "
           "here, and is neither saved nor copied";
  }
  if (!info.changes_found_by.empty()) {
    return fmt::format("it is on {} for a call of run_on, which brings it home", info.node);
  }
  if (info.call.empty()) return fmt::format("it is on {}", info.node);
  return fmt::format("it is on {}: `telefork home {}` brings it back", info.node, info.pid);
}

// What is here of them is traced by telefork, which is no debugger that somebody could end.
void refuse_away(pid_t pid, pid_t keeper, const std::vector<session::SessionInfo>& sessions) {
  for (const pid_t member : try_list_tree(pid)) {
    const pid_t tracer = try_read_tracer(member);
    if (tracer == 0 || tracer == keeper) continue;
    for (const session::SessionInfo& info : sessions) {
      if (info.left || info.session != tracer) continue;
      throw Error(Code::kRefused, fmt::format("refused: process {}: {}", member, why_away(info)));
    }
  }
}

}  // namespace

std::optional<std::string> find_node_waiting_for_memory(pid_t pid) {
  for (const session::SessionInfo& info : session::list_sessions(visible_registries())) {
    if (info.role == "away" && info.pid == pid && info.follows && !info.left) return info.node;
  }
  return std::nullopt;
}

void refuse_held(pid_t pid, Wish wish) {
  const std::vector<session::SessionInfo> sessions = session::list_sessions(visible_registries());
  for (const session::SessionInfo& info : sessions) {
    if (!info.hold) continue;
    for (const session::HeldMember& member : info.hold->members) {
      const pid_t held = member.process.process.pid;
      if (!tracee::is_parked(member.process) || !session::descends_from(pid, held)) continue;
      if (!info.left && info.state == "away") {
        if (wish == Wish::kHome) return;
        throw Error(Code::kRefused,
                    fmt::format("refused: process {}: it runs on {}, and its memory still follows "
                                "it there: try again when that has come",
                                held, info.node));
      }
      throw Error(
          Code::kRefused,
          fmt::format("refused: process {0}: it is held here, and may run on {1}: `telefork "
                      "resume {0}` takes it up",
                      held, info.node));
    }
  }
  if (wish == Wish::kHome) return;
  std::optional<session::KeeperCall> keeper;
  if (wish == Wish::kMoveOn) keeper = session::find_keeper_call(pid, visible_registries());
  refuse_away(pid, keeper ? keeper->keeper : 0, sessions);
}

}  // namespace telefork::app
