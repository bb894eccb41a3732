#include "capture/live_plan.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "kernel/vma_merging.h"
#include "kernel/write_watch.h"

namespace telefork::capture {
namespace {

using kernel::PageRun;
using kernel::VmFlag;

constexpr VmFlag kOthers[] = {VmFlag::kUffdMissing, VmFlag::kUffdMinor, VmFlag::kHugeTlb,
                              VmFlag::kGuard,       VmFlag::kSealed,    VmFlag::kDroppable,
                              VmFlag::kGrowsDown};

bool is_plain(const Mapping& mapping) {
  const kernel::Vma& vma = mapping.vma;
  return mapping.kind == image::schema::Vma::Kind::ANONYMOUS &&
         std::none_of(std::begin(kOthers), std::end(kOthers),
                      [&vma](VmFlag flag) { return vma.has(flag); });
}

kernel::MergeTraits traits_of(const Mapping& mapping) {
  const kernel::Vma& vma = mapping.vma;
  return {vma.start.value(), vma.end.value(), vma.flags, vma.protection(),
          mapping.kind == image::schema::Vma::Kind::ANONYMOUS};
}

// What only its past keeps apart from its neighbour is made elsewhere there, and moved to its place
// (restore/mappings.cc).
bool is_kept_apart(const Survey& survey, std::size_t index) {
  return index > 0 && kernel::would_merge(traits_of(survey.mappings[index - 1]),
                                          traits_of(survey.mappings[index]));
}

// Of memory that is mapped at the destination what cannot be changed afterwards.
bool is_mapped_alike(const kernel::Vma& a, const kernel::Vma& b) {
  return a.has(VmFlag::kNoReserve) == b.has(VmFlag::kNoReserve);
}

}  // namespace

std::vector<kernel::Vma> areas_to_watch(const Survey& survey) {
  std::vector<kernel::Vma> areas;
  for (std::size_t i = 0; i < survey.mappings.size(); ++i) {
    const Mapping& mapping = survey.mappings[i];
    if (!is_plain(mapping) || is_kept_apart(survey, i)) continue;
    areas.push_back(mapping.vma);
  }
  return areas;
}

LivePlan::LivePlan(pid_t pid, kernel::PageMapAbi abi, std::vector<kernel::Vma> areas,
                   std::vector<PageRun> sent, std::vector<PageRun> zeros)
    : map_(pid, abi),
      abi_(abi),
      areas_(std::move(areas)),
      sent_(std::move(sent)),
      known_(std::move(zeros)) {
  known_ = kernel::unite_runs(sent_, known_);
}

void LivePlan::begin(std::vector<kernel::Vma> map) {
  vmas_ = std::move(map);
  beside_.emplace([this] { scan(); });
}

void LivePlan::scan() {
  for (const kernel::Vma& vma : vmas_) {
    if (vma.is_vsyscall()) continue;
    if (vma.is_anonymous() && !vma.shared) {
      found_[{vma.start, vma.end}] = look_at(vma);
    } else if (abi_ == kernel::PageMapAbi::kScanGuards) {
      for (const PageRun& run : map_.guard_pages(vma.start, vma.end)) {
        kernel::append_run(guards_, run);
      }
    }
  }
}

// In pieces: who changes the memory map meanwhile does not wait for all of it (mmap_lock).
kernel::PageMap::Private LivePlan::look_at(const kernel::Vma& vma) {
  constexpr std::uint64_t kPiece = 16 * 1024 * 1024;
  kernel::PageMap::Private pages;
  for (RemotePtr at = vma.start; at < vma.end;) {
    const RemotePtr end = vma.end - at > kPiece ? at + kPiece : vma.end;
    const kernel::PageMap::Private piece = map_.private_and_unprotected_pages(at, end, guards_);
    for (const PageRun& run : piece.all) kernel::append_run(pages.all, run);
    for (const PageRun& run : piece.written) kernel::append_run(pages.written, run);
    at = end;
  }
  return pages;
}

void LivePlan::finish() {
  TELEFORK_ASSERT(beside_.has_value());
  beside_->finish();
}

const std::vector<PageRun>& LivePlan::guards() {
  finish();
  return guards_;
}

bool LivePlan::can_use(const Survey& survey, std::size_t index) const {
  const Mapping& mapping = survey.mappings[index];
  if (!is_plain(mapping) || is_kept_apart(survey, index)) return false;
  const kernel::Vma& vma = mapping.vma;
  auto area = std::partition_point(areas_.begin(), areas_.end(), [&vma](const kernel::Vma& before) {
    return before.end <= vma.start;
  });
  if (area == areas_.end() || area->start >= vma.end) return false;
  for (; area != areas_.end() && area->start < vma.end; ++area) {
    if (!is_mapped_alike(*area, vma)) return false;
  }
  return true;
}

LivePlan::Pages LivePlan::look(const Survey& survey, std::size_t index) {
  if (!can_use(survey, index)) return {};
  const kernel::Vma& vma = survey.mappings[index].vma;
  finish();
  auto found = found_.find({vma.start, vma.end});
  if (found == found_.end()) {
    found = found_.emplace(std::pair(vma.start, vma.end), look_at(vma)).first;
  }
  const kernel::PageMap::Private& now = found->second;
  const std::vector<PageRun> unwritten =
      kernel::subtract_runs(now.all, vma.start, vma.end, now.written);
  const std::vector<PageRun> holding = kernel::intersect_runs(unwritten, known_);
  return {kernel::intersect_runs(now.all, sent_),
          kernel::subtract_runs(now.all, vma.start, vma.end, holding)};
}

}  // namespace telefork::capture
