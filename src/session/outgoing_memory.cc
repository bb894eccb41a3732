#include "session/outgoing_memory.h"

#include <utility>

#include "session/hosting.h"

namespace telefork::session {
namespace {

// A telepad guards so many, and those of what they fork there (guard_channel.cc).
constexpr std::size_t kMostProcesses = 128;

}  // namespace

void OutgoingMemory::choose(const Laziness& laziness, Mode mode, std::uint64_t resident_kb,
                            const OpenedNode& node, const std::string& node_name,
                            const std::string& why_not) {
  least_ = laziness.mapping_kb * 1024;
  takes_several_ = why_not_lazy_trees(*node.reply).empty();
  choice_ =
      laziness.choose(mode, resident_kb, node_name, why_not.empty() ? why_not_lazy(node) : why_not);
}

void OutgoingMemory::choose_live(const OpenedNode& node, const std::string& node_name,
                                 kernel::PageMapAbi pagemap, const std::string& why_not) {
  std::string reason = why_not;
  if (reason.empty() && pagemap == kernel::PageMapAbi::kEntries) {
    reason =
        "this kernel does not tell which pages are written to (Linux 6.7 does); use mode eager";
  }
  if (reason.empty()) reason = why_not_live(*node.reply);
  choice_ = Laziness::choose_live(node_name, reason);
}

void OutgoingMemory::say(SessionInfo& info) const {
  info.mode = choice_.name();
  info.mode_reason = choice_.why_not;
}

void OutgoingMemory::open(const OpenedNode& node) {
  if (!connection_) connection_ = open_page_connection(node);
}

capture::LazyPlan OutgoingMemory::plan(const capture::Survey& survey,
                                       std::vector<kernel::PageRun> in_use) const {
  if (!is_lazy()) return {};
  return capture::plan_lazy_memory(survey, std::move(in_use), least_);
}

std::unique_ptr<migrate::PageServer> OutgoingMemory::serve(capture::LazyPlan plan, pid_t pid,
                                                           bool shares_pages,
                                                           kernel::PageMapAbi pagemap) {
  std::vector<capture::LazyPlan> plans;
  plans.push_back(std::move(plan));
  return serve_all(std::move(plans), {pid}, shares_pages, pagemap);
}

std::vector<capture::LazyPlan> OutgoingMemory::plan_all(const capture::TreeSurvey& tree,
                                                        tracee::FrozenTree& frozen) const {
  std::vector<capture::LazyPlan> plans(tree.members.size());
  if (!is_lazy()) return plans;
  std::size_t follow = 0;
  for (std::size_t i = 0; i < plans.size() && follow < kMostProcesses; ++i) {
    if (i > 0 && !takes_several_) break;
    const capture::Survey& member = tree.members[i];
    plans[i] = plan(member, capture::find_places_in_use(frozen.of(member.pid)));
    if (!plans[i].mappings.empty()) ++follow;
  }
  return plans;
}

std::unique_ptr<migrate::PageServer> OutgoingMemory::serve_all(std::vector<capture::LazyPlan> plans,
                                                               const std::vector<pid_t>& pids,
                                                               bool shares_pages,
                                                               kernel::PageMapAbi pagemap) {
  std::vector<migrate::ServedMemory> memories;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    if (plans[i].mappings.empty()) continue;
    migrate::ServedMemory& memory = memories.emplace_back();
    memory.pid = pids.at(i);
    memory.shares_pages = shares_pages;
    memory.pagemap = pagemap;
    memory.mappings = std::move(plans[i].mappings);
    memory.ahead = std::move(plans[i].ahead);
    memory.process = static_cast<std::uint32_t>(i);
  }
  if (memories.empty()) return nullptr;
  return std::make_unique<migrate::PageServer>(std::move(connection_), memories);
}

}  // namespace telefork::session
