#include <cerrno>
#include <map>

#include <fmt/format.h>
#include "base/error.h"
#include "capture/sharing.h"
#include "capture/survey.h"

namespace telefork::capture {
namespace {

// The launcher of a private agent stays in the memory of the program that made it, and leaves it
// alone (library/private_agent.c).
bool is_launcher(pid_t pid) {
  try {
    return kernel::read_comm(pid, pid) == "telefork-agent";
  } catch (const Error& error) {
    if (error.code() != Code::kGone && error.error() != ENOENT) throw;
    return true;  // it has ended
  }
}

void add_refusals(const std::map<std::string, std::vector<pid_t>>& sharers, Reason reason,
                  pid_t pid, const std::string& name, Refusals& refusals) {
  for (const auto& [parts, pids] : sharers) {
    std::string others = pids.size() == 1 ? "" : fmt::format(" and {} more", pids.size() - 1);
    refusals.push_back(refuse(fmt::format("process {} ({})", pid, name), reason,
                              fmt::format("{} with process {}{}", parts, pids.front(), others)));
  }
}

}  // namespace

Refusals find_sharers(const SurveyOptions& options, pid_t pid, const std::string& name) {
  const bool stays_whole = options.purpose == Purpose::kFork;  // it has copies
  const bool seen_as_children = options.purpose == Purpose::kReturn;
  if (stays_whole || seen_as_children || options.quick) return {};
  const auto sharing =
      options.sharing ? options.sharing : std::make_shared<const Sharing>(std::set<pid_t>{pid});
  std::map<std::string, std::vector<pid_t>> sharers;
  std::map<std::string, std::vector<pid_t>> own;  // that go along; said of the first of them
  for (const auto& [parts, others] : sharing->of(pid)) {
    for (pid_t other : others) {
      if (options.tree.contains(other)) {
        // The others are looked at when the whole tree is known (tree.cc).
        const bool settled =
            !options.may_share_again() || sharing->is_shared(SharedPart::kMemory, pid, other);
        if (settled && other > pid) own[parts].push_back(other);
      } else if (!is_launcher(other)) {
        sharers[parts].push_back(other);
      }
    }
  }
  Refusals refusals;
  add_refusals(sharers, Reason::kSharer, pid, name, refusals);
  add_refusals(own, Reason::kSharerMoves, pid, name, refusals);
  return refusals;
}

}  // namespace telefork::capture
