// What of a process's memory lies at the destination already, sent while it ran (migrate/
// page_rounds.h).
//
//     std::vector<kernel::Vma> areas = areas_to_watch(survey);   // it runs still
//     ... rounds of pages of them ...
//     LivePlan plan(pid, abi, areas, sent, zeros);
//     plan.begin(map)           // it stands still: a thread looks at its pages
//     plan.look(survey, i)      // what of this mapping holds, and what travels
//
// A page holds there as it is here if it came in a round, and no write to it was seen since. Who
// watches the writes is asked about each page as it lies now: memory that was mapped or moved
// meanwhile is not watched, and travels.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/beside.h"
#include "capture/survey.h"
#include "kernel/pagemap.h"

namespace telefork::capture {

// Private anonymous memory in a form that userfaultfd(2) knows; at the destination it lies at its
// own addresses. What may not be read is among it: it is one there with what lies beside it.
std::vector<kernel::Vma> areas_to_watch(const Survey& survey);

class LivePlan {
 public:
  // All rise. `sent`: what came there last with content, `zeros`: what was all zeros when it was
  // looked at last.
  LivePlan(pid_t pid, kernel::PageMapAbi abi, std::vector<kernel::Vma> areas,
           std::vector<kernel::PageRun> sent, std::vector<kernel::PageRun> zeros);
  LivePlan(const LivePlan&) = delete;
  LivePlan& operator=(const LivePlan&) = delete;

  // Of the whole process, whose map does not change from now on where it has pages.
  void begin(std::vector<kernel::Vma> map);
  // Rising, of all of it; none where the kernel does not tell them (PageMapAbi::kScanGuards). These
  // wait for what has begun.
  const std::vector<kernel::PageRun>& guards();

  struct Pages {
    // Of what came there: all that the process has content for still. The rest is to be zero again.
    std::vector<kernel::PageRun> staged;
    std::vector<kernel::PageRun> travelling;
  };
  // Of mapping `index`; nothing where none of it can lie there.
  Pages look(const Survey& survey, std::size_t index);
  bool can_use(const Survey& survey, std::size_t index) const;

 private:
  void scan();
  kernel::PageMap::Private look_at(const kernel::Vma& vma);
  void finish();

  kernel::PageMap map_;
  kernel::PageMapAbi abi_;
  std::vector<kernel::Vma> areas_;
  std::vector<kernel::PageRun> sent_;
  std::vector<kernel::PageRun> known_;  // sent, or zeros
  std::vector<kernel::Vma> vmas_;       // to be looked at
  std::map<std::pair<RemotePtr, RemotePtr>, kernel::PageMap::Private> found_;
  std::vector<kernel::PageRun> guards_;
  std::optional<Beside> beside_;  // last: it uses all of these
};

}  // namespace telefork::capture
