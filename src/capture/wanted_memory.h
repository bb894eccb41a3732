// Memory of which a machine has only so much, or only one by that name: whoever is to have a
// process can be asked for it before anything stops.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "capture/system_v.h"
#include "capture/tree.h"

namespace telefork::capture {

struct WantedMemory {
  // Pages of hugetlb by the log2 of their bytes: so many at least.
  std::map<unsigned, std::uint64_t> huge_pages;
  std::vector<Segment> segments;

  bool empty() const { return huge_pages.empty() && segments.empty(); }
};

// Of all that goes, surveyed with the flags of its mappings.
WantedMemory find_wanted_memory(const TreeSurvey& tree);

}  // namespace telefork::capture
