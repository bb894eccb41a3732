#include "session/resume.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_task.h"
#include "net/address.h"
#include "net/stream.h"
#include "session/common_end.h"
#include "session/fence.h"

namespace telefork::session {
namespace {

using KnownBy = ResumeReport::KnownBy;

void wait_a_little() { net::poll_until({}, net::Deadline::in(kFenceInterval)); }

std::optional<SessionInfo> find(const std::vector<std::string>& registries, pid_t pid) {
  for (SessionInfo& info : list_sessions(registries)) {
    if (info.role != "away") continue;
    if (info.pid == pid || (info.hold && find_member(*info.hold, pid) != nullptr)) {
      return std::move(info);
    }
  }
  return std::nullopt;
}

[[noreturn]] void refuse(pid_t pid, const std::string& why) {
  throw Error(Code::kRefused, fmt::format("refused: process {}: {}", pid, why));
}

[[noreturn]] void refuse_unheld(const SessionInfo& info) {
  if (!info.changes_found_by.empty()) {
    refuse(info.pid,
           "it is away for a call of run_on, which fails by itself when its node is lost");
  }
  if (info.state == "away") {
    refuse(info.pid, fmt::format("it is not lost: it is on {}; `telefork home {}` brings back what "
                                 "was moved",
                                 info.node, info.pid));
  }
  if (info.state == "being sent") refuse(info.pid, "it goes on here if it does not get away");
  refuse(info.pid,
         fmt::format("nothing of it is here that could be taken up: it is {}, and its pid "
                     "ends when it is known to have ended there",
                     info.state));
}

void forget_unparked(std::vector<HeldMember>& held) {
  std::erase_if(held, [](const HeldMember& member) { return !tracee::is_parked(member.process); });
}

// For those that have not begun to wait: as long as one is parked nobody else has that number.
void end_common_lease(const std::vector<HeldMember>& held) {
  for (const HeldMember& member : held) {
    if (member.common_end < 0) continue;
    try {
      UniqueFd file = kernel::take_fd(member.process.process.pid, member.common_end);
      if (file && tracee::is_parked(member.process)) CommonEnd(std::move(file)).set_lease({});
    } catch (const Error&) {
      // It waits by now, and has closed it, or was killed.
    }
  }
}

// Those that are left are traced still. Which have gone on by it: they may have ended since.
void release(std::vector<HeldMember>& held, std::set<pid_t>& released) {
  end_common_lease(held);
  std::erase_if(held, [&released](const HeldMember& member) {
    try {
      const bool goes_on = tracee::try_release(member.process);
      if (goes_on) released.insert(member.process.process.pid);
      return goes_on;
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
      return true;
    }
  });
}

[[noreturn]] void refuse_unknown(pid_t pid) {
  try {
    kernel::read_stat(pid);
  } catch (const Error&) {
    refuse(pid, "there is no such process; what has ended here cannot be taken up");
  }
  refuse(pid, "it is not away, or not by a telefork of this user");
}

}  // namespace

// While its session process lives it finds out by itself: it has become the deputy then, or goes on
// here, or is left.
SessionInfo Resumption::await_settled(ResumeReport& report) {
  std::optional<SessionInfo> before;
  // A folder that is written to may hide an entry from who reads it.
  for (bool missed = false;; wait_a_little()) {
    std::optional<SessionInfo> now = find(settings_.registries, pid_);
    if (!now && !before) refuse_unknown(pid_);
    if (!now && missed && !is_held(*before->hold)) {
      report.known_by = KnownBy::kSession;
      return *before;
    }
    missed = !now;
    if (missed) continue;
    if (!now->hold) refuse_unheld(*now);
    if (now->left) return *now;
    if (!before && settings_.on_wait_for_session) settings_.on_wait_for_session(*now);
    before = std::move(now);
  }
}

// It may go on by its lease at any time.
void Resumption::take_up(const SessionInfo& info, ResumeReport& report) {
  const Hold& hold = *info.hold;
  std::vector<HeldMember> held = hold.members;
  std::unique_ptr<Fence> fence =
      make_fence(net::parse_node(info.node), settings_.access, here_, hold.fence_key);
  const auto deadline = net::Deadline::in(kFencePatience);
  bool told = false;
  bool by_lease = false;
  for (bool confirmed = hold.confirmed;; wait_a_little()) {
    forget_unparked(held);
    if (held.empty()) break;
    if (!confirmed && fence != nullptr && fence->try_confirm()) {
      confirmed = true;
      note_confirmed(info.path);
    }
    if (confirmed) release(held, released_);
    if (held.empty() && by_lease) break;
    if (held.empty()) return;
    if (confirmed) continue;
    const std::string why = fence != nullptr ? fence->why_never() : "";
    if (why.empty() && fence != nullptr && !deadline.passed()) continue;
    if (hold.lease_over) {
      by_lease = confirmed = true;
    } else if (hold.without_end) {
      throw Error(
          Code::kUnreachable,
          fmt::format("process {}: {}; it is held here still: try again, or end it here with "
                      "`kill -9 {}`",
                      pid_, why.empty() ? info.node + " does not answer" : why, pid_));
    }
    if (!confirmed && !std::exchange(told, true) && settings_.on_wait_for_lease)
      settings_.on_wait_for_lease(info);
  }
  report.known_by = KnownBy::kLease;
}

ResumeReport Resumption::run() {
  for (;;) {
    ResumeReport report;
    const SessionInfo info = await_settled(report);
    report.node = info.node;
    report.lost = time_lost(*info.hold);
    if (report.known_by != KnownBy::kSession) {
      const UniqueFd ours = try_take_over(info.path);
      if (!ours) {
        wait_a_little();
        continue;
      }
      take_up(info, report);
      report.lost = time_lost(*info.hold);
      ::unlink(info.path.c_str());
    }
    for (const HeldMember& member : info.hold->members) {
      const auto& process = member.process.process;
      if (!released_.contains(process.pid) && !kernel::is_alive(process)) continue;
      if (report.processes++ == 0) report.pid = member.process.process.pid;
    }
    if (report.processes == 0) {
      throw Error(Code::kGone, fmt::format("process {} has ended", pid_));
    }
    return report;
  }
}

}  // namespace telefork::session
