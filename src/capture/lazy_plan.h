// Which memory of a process follows it when it runs elsewhere already, and what of that goes ahead.
//
//     LazyPlan plan = plan_lazy_memory(survey, places);
//     plan.has(vma)          // its pages follow
//     plan.ahead             // these go with the image nevertheless: the process needs them at
//     once
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "capture/survey.h"
#include "kernel/pagemap.h"
#include "tracee/freezer.h"

namespace telefork::capture {

struct LazyPlan {
  std::vector<kernel::Vma> mappings;   // rising
  std::vector<kernel::PageRun> ahead;  // rising

  bool has(const kernel::Vma& vma) const;
  // What of it goes ahead, whether it holds anything or not.
  std::vector<kernel::PageRun> ahead_in(const kernel::Vma& vma) const;
};

// Where the threads are about to read or write: their stacks, and what the C library keeps for
// each. They stand still where the program left them.
std::vector<kernel::PageRun> find_places_in_use(tracee::FrozenProcess& frozen);

// Private anonymous memory of at least `least` bytes that may be read and not executed, and is
// neither locked nor in a form that userfaultfd(2) does not know, follows.
LazyPlan plan_lazy_memory(const Survey& survey, std::vector<kernel::PageRun> in_use,
                          std::uint64_t least);

}  // namespace telefork::capture
