// How the memory of a process that leaves goes: all of it first, after it, or ahead of it.
//
//     OutgoingMemory memory;
//     memory.choose(laziness, mode, survey.status.resident_kb, opened);
//     memory.open(opened);                     // ahead of the Prepare that says is_lazy()
//     LazyPlan plan = memory.plan(survey, places);
//     ... the image, with CaptureSettings::lazy = &plan ...
//     pages = memory.serve(std::move(plan), {pid}, pagemap);   // null: nothing follows
//
// Of several processes plan_all() and serve_all(), in the order in which they are in the image.
//
// Owned by the session process.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "capture/lazy_plan.h"
#include "capture/tree.h"
#include "migrate/page_server.h"
#include "net/stream.h"
#include "session/laziness.h"
#include "session/node_link.h"
#include "session/registry.h"
#include "tracee/frozen_tree.h"

namespace telefork::session {

class OutgoingMemory {
 public:
  // Throws kRefused for a mode that was asked for by name and cannot be had. `why_not`: of this
  // process, whatever the node can; empty: nothing.
  void choose(const Laziness& laziness, Mode mode, std::uint64_t resident_kb,
              const OpenedNode& node, const std::string& node_name,
              const std::string& why_not = {});
  // Of Mode::kLive. `why_not` as there.
  void choose_live(const OpenedNode& node, const std::string& node_name, kernel::PageMapAbi pagemap,
                   const std::string& why_not);
  bool is_lazy() const { return choice_.lazy; }
  bool is_live() const { return choice_.live; }
  const Laziness::Choice& choice() const { return choice_; }
  // For who lists sessions.
  void say(SessionInfo& info) const;

  // Where it is not open; is_lazy(), or the process is about to be.
  void open(const OpenedNode& node);
  void close() { connection_.reset(); }

  // Which does follow, of a process that was surveyed; of one that is not lazy nothing.
  capture::LazyPlan plan(const capture::Survey& survey, std::vector<kernel::PageRun> in_use) const;
  // It may be asked for from the End on. `pid`, `shares_pages` as ServedMemory has them.
  std::unique_ptr<migrate::PageServer> serve(capture::LazyPlan plan, pid_t pid, bool shares_pages,
                                             kernel::PageMapAbi pagemap);

  // Of each that was surveyed, `frozen` holds it; of those that are not lazy, or too many, nothing.
  std::vector<capture::LazyPlan> plan_all(const capture::TreeSurvey& tree,
                                          tracee::FrozenTree& frozen) const;
  // `pids`: of each plan the process that has its memory.
  std::unique_ptr<migrate::PageServer> serve_all(std::vector<capture::LazyPlan> plans,
                                                 const std::vector<pid_t>& pids, bool shares_pages,
                                                 kernel::PageMapAbi pagemap);

 private:
  Laziness::Choice choice_;
  std::uint64_t least_ = 0;     // of a mapping that follows
  bool takes_several_ = false;  // the node: memory that follows each of several
  std::unique_ptr<net::Stream> connection_;
};

}  // namespace telefork::session
