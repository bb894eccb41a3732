#include "session/outgoing_memory.h"

#include <utility>

#include "session/hosting.h"

namespace telefork::session {

void OutgoingMemory::choose(const Laziness& laziness, Mode mode, std::uint64_t resident_kb,
                            const OpenedNode& node, const std::string& node_name,
                            const std::string& why_not) {
  least_ = laziness.mapping_kb * 1024;
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
  if (plan.mappings.empty()) return nullptr;
  migrate::ServedMemory memory;
  memory.pid = pid;
  memory.shares_pages = shares_pages;
  memory.pagemap = pagemap;
  memory.mappings = std::move(plan.mappings);
  memory.ahead = std::move(plan.ahead);
  return std::make_unique<migrate::PageServer>(std::move(connection_), std::move(memory));
}

}  // namespace telefork::session
