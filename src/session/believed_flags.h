// The flags of a process's mappings, which cost a walk of all its page tables (smaps in proc(5): 30
// ns a page): believed to be what they were, until there is time to look.
//
//     std::vector<kernel::Vma> map = kernel::read_maps(pid);
//     if (believe_flags(arrived, map)) {
//       ... a survey with SurveyOptions::map, and what follows from it ...
//       for (auto& [index, vma] : find_other_flags(kernel::read_smaps(pid), survey.mappings)) ...
//     }
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "capture/survey.h"
#include "kernel/procfs_maps.h"

namespace telefork::session {

// Gives each of `map` (read_maps) the flags that are likely: those that were at its place in
// `known`, sorted, or what private memory without a file begins with. False: there is one of which
// nobody can say.
bool believe_flags(const std::vector<kernel::Vma>& known, std::vector<kernel::Vma>& map);

// Those of `mappings` that are not what was believed, by their index, with all that `smaps` tells
// of them. Code::kFailed: they are not the same process's.
std::vector<std::pair<std::size_t, kernel::Vma>> find_other_flags(
    const std::vector<kernel::Vma>& smaps, std::span<const capture::Mapping> mappings);

}  // namespace telefork::session
