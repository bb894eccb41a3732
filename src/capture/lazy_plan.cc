#include "capture/lazy_plan.h"

#include <algorithm>
#include <utility>

#include "kernel/write_watch.h"
#include "tracee/registers.h"

namespace telefork::capture {
namespace {

using kernel::PageRun;
using kernel::VmFlag;

// Of a stack: the frames of a few callers, and below them what the next call needs.
constexpr std::uint64_t kStackAbove = 16;
constexpr std::uint64_t kStackBelow = 4;
// Of a thread's control block and what lies beside it.
constexpr std::uint64_t kBlockAround = 1;

PageRun pages_around(std::uint64_t address, std::uint64_t below, std::uint64_t above) {
  const std::uint64_t page = address / kPageSize;
  const std::uint64_t first = page - std::min(page, below);
  return {RemotePtr(first * kPageSize), page - first + above + 1};
}

// A bit a page is kept of all of it: what reserves more than any machine has comes as it always
// did.
constexpr std::uint64_t kMost = std::uint64_t{128} << 30;

bool may_follow(const Mapping& mapping, std::uint64_t least) {
  const kernel::Vma& vma = mapping.vma;
  if (mapping.kind != image::schema::Vma::Kind::ANONYMOUS || !vma.read || vma.execute ||
      vma.size() < least || vma.size() > kMost) {
    return false;
  }
  // Also of memory that itself has not all come yet.
  constexpr VmFlag kOthers[] = {VmFlag::kUffdMissing, VmFlag::kHugeTlb, VmFlag::kLocked,
                                VmFlag::kGuard,       VmFlag::kSealed,  VmFlag::kDroppable,
                                VmFlag::kGrowsDown};
  return std::none_of(std::begin(kOthers), std::end(kOthers),
                      [&vma](VmFlag flag) { return vma.has(flag); });
}

// What others read of it while it runs, and may not wait for: its arguments and environment, by
// /proc/PID/cmdline and environ (mm/memory.c, __access_remote_vm).
void add_command_line(const kernel::Stat& stat, std::vector<PageRun>& places) {
  for (auto [start, end] :
       {std::pair(stat.arg_start, stat.arg_end), std::pair(stat.env_start, stat.env_end)}) {
    if (start >= end) continue;
    const RemotePtr first(round_down(start.value(), kPageSize));
    places.push_back({first, (round_up(end.value(), kPageSize) - first.value()) / kPageSize});
  }
}

}  // namespace

bool LazyPlan::has(const kernel::Vma& vma) const {
  auto found =
      std::partition_point(mappings.begin(), mappings.end(),
                           [&vma](const kernel::Vma& lazy) { return lazy.start < vma.start; });
  return found != mappings.end() && found->start == vma.start;
}

std::vector<PageRun> LazyPlan::ahead_in(const kernel::Vma& vma) const {
  return kernel::subtract_runs(ahead, vma.start, vma.end, {});
}

std::vector<PageRun> find_places_in_use(tracee::FrozenProcess& frozen) {
  std::vector<PageRun> places;
  for (tracee::TracedThread& thread : frozen.threads()) {
    places.push_back(
        pages_around(tracee::stack_pointer(thread.registers()), kStackBelow, kStackAbove));
    if (auto rseq = thread.rseq()) {
      places.push_back(pages_around(rseq->address, kBlockAround, kBlockAround));
    }
  }
  return places;
}

LazyPlan plan_lazy_memory(const Survey& survey, std::vector<PageRun> in_use, std::uint64_t least) {
  add_command_line(survey.stat, in_use);
  std::sort(in_use.begin(), in_use.end(),
            [](const PageRun& a, const PageRun& b) { return a.start < b.start; });
  const std::vector<PageRun> places = kernel::unite_runs(in_use, {});
  LazyPlan plan;
  for (const Mapping& mapping : survey.mappings) {
    if (!may_follow(mapping, least)) continue;
    // It follows from a snapshot of the original, which has neither.
    if (survey.original_stays &&
        (mapping.vma.has(VmFlag::kDontCopy) || mapping.vma.has(VmFlag::kWipeOnFork))) {
      continue;
    }
    plan.mappings.push_back(mapping.vma);
    const std::vector<PageRun> here =
        kernel::subtract_runs(places, mapping.vma.start, mapping.vma.end, {});
    plan.ahead.insert(plan.ahead.end(), here.begin(), here.end());
  }
  return plan;
}

}  // namespace telefork::capture
