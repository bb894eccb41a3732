// Pages into the guest's memory, which mappings.cc has mapped.
#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_maps.h"
#include "kernel/userfault.h"
#include "kernel/write_watch.h"
#include "restore/restorer.h"
#include "tracee/new_fd.h"

namespace telefork::restore {
namespace {

using image::schema::Pages;
using image::schema::Vma;
using tracee::SyscallProgram;

constexpr std::size_t kBuffer = 256 * 1024;
// Of what is kept: fewer pages that lie together, as those of a thread's stack, are in their place
// sooner than somebody has waited for the first one.
constexpr std::uint64_t kWorthFollowing = 64;

}  // namespace

Restorer::Mapping& Restorer::mapping_of(RemotePtr address) {
  auto after = std::upper_bound(
      mappings_.begin(), mappings_.end(), address,
      [](RemotePtr wanted, const Mapping& mapping) { return wanted < mapping.start(); });
  TELEFORK_ASSERT(after != mappings_.begin());  // image/record_rules.h
  return *std::prev(after);
}

void Restorer::take_pages(const image::Record& record, image::RecordSource& source) {
  if (in_rounds_) {
    map_areas();
  } else {
    with_context("making the guest's process", [&] { prepare(); });
  }
  auto pages = record.get<Pages>();
  with_context("receiving memory", [&] {
    SyscallProgram program;
    drop_pages(pages.getDropped(), program);
    std::vector<PagePiece> pieces = place(runs_of(pages.getRuns()), program);
    if (bulk_in_blank_ >= 0) {
      std::uint64_t received =
          receive_pages(blank_->stub(), std::move(program), bulk_in_blank_, pieces, *huge_);
      source.payload_taken_elsewhere(received);
      pieces = drop_first(std::move(pieces), received);
    } else {
      add_population(pieces, *huge_, true, program);
      run_if_large(program, true);
    }
    if (!buffer_) buffer_ = std::make_unique<MappedRegion>(kBuffer);
    write_pages(blank_->pid(), pieces, source, buffer_->bytes());
    if (pages.getKept().size() > 0) take_kept_pages(pages.getKept());
  });
}

// Memory that userfaultfd(2) knows; see also capture/lazy_plan.h.
bool Restorer::may_follow(const kernel::PageRun& kept) {
  if (!settings_.kept_follows || kept.pages < kWorthFollowing) return false;
  const Mapping& mapping = mapping_of(kept.start);
  Vma::Reader vma = mapping.vma();
  constexpr kernel::VmFlag kOthers[] = {kernel::VmFlag::kHugeTlb, kernel::VmFlag::kLocked,
                                        kernel::VmFlag::kGuard, kernel::VmFlag::kSealed,
                                        kernel::VmFlag::kDroppable};
  return vma.getKind() == Vma::Kind::ANONYMOUS && (vma.getProtection() & PROT_READ) != 0 &&
         (vma.getProtection() & PROT_EXEC) == 0 && vma.getGuardRuns().size() == 0 &&
         std::none_of(std::begin(kOthers), std::end(kOthers),
                      [&vma](kernel::VmFlag flag) { return has_flag(vma, flag); });
}

// All of one run, then of the next, in pieces as large as they are asked for.
void Restorer::take_kept_pages(RunList all) {
  if (!settings_.read_kept) {
    throw Error(Code::kCorrupt, "it has pages that were kept, and none were");
  }
  std::vector<kernel::PageRun> runs;
  for (const kernel::PageRun& run : runs_of(all)) {
    (may_follow(run) ? kept_to_follow_ : runs).push_back(run);
  }
  if (runs.empty()) return;
  SyscallProgram program;
  const std::vector<PagePiece> pieces = place(runs, program);
  add_population(pieces, *huge_, true, program);
  run_if_large(program, true);
  std::size_t index = 0;
  std::uint64_t done = 0;  // bytes of that run
  auto read = [&](std::span<std::byte> to) {
    while (!to.empty()) {
      const std::uint64_t left = runs[index].pages * kPageSize - done;
      const std::span<std::byte> part = to.first(std::min<std::uint64_t>(to.size(), left));
      settings_.read_kept(runs[index].start + done, part);
      to = to.subspan(part.size());
      done += part.size();
      if (part.size() < left) continue;
      ++index;
      done = 0;
    }
  };
  write_pages(blank_->pid(), pieces, read, buffer_->bytes());
}

// Where the runs lie now, cut where huge pages begin so that no piece is larger than a chunk.
std::vector<PagePiece> Restorer::place(const std::vector<kernel::PageRun>& runs,
                                       SyscallProgram& program) {
  std::vector<PagePiece> pieces;
  for (const kernel::PageRun& whole : runs) {
    const RemotePtr start = whole.start;
    Mapping& mapping = mapping_of(start);
    open_for_pages(mapping, program);
    if (in_rounds_) came_in_rounds_ = kernel::unite_runs(came_in_rounds_, {whole});
    if (start == mapping.start()) mapping.has_first_page = true;
    Vma::Reader vma = mapping.vma();
    if (vma.getLazy()) kernel::append_run(arrived_of_lazy_, whole);
    const std::uint32_t thp_disable = process_ ? process().getThpDisable() : 0;
    // Where pages are already, none of them is made huge.
    const bool huge_allowed =
        (!first_round_ || is_first_round_) && may_have_huge_pages(vma, thp_disable);
    RemotePtr at = mapping.at + (start - mapping.start());
    RemotePtr end = at + whole.pages * kPageSize;
    while (at < end) {
      RemotePtr cut(round_down((at + kReceptionChunk).value(), kHugePageSize));
      std::uint64_t size = std::min(end, cut) - at;
      pieces.push_back({at, size, huge_allowed});
      if (huge_shift(vma) != 0) make_hugetlb_pages(vma, {at, size}, program);
      if (pieces.back().has_huge()) get_ready_for_huge_pages(mapping, program);
      at = at + size;
    }
  }
  return pieces;
}

// Those that are not reserved may be more than there are.
void Restorer::make_hugetlb_pages(Vma::Reader vma, Range range, SyscallProgram& program) {
  const unsigned shift = huge_shift(vma);
  const std::uint64_t page = std::uint64_t{1} << shift;
  const std::uint64_t start = round_down(range.start.value(), page);
  program.call(fmt::format("making {} at {}", huge_pages_name(shift), place_name(vma)), SYS_madvise,
               {start, round_up(range.end().value(), page) - start, kernel::kMadvPopulateWrite});
}

void Restorer::get_ready_for_huge_pages(Mapping& mapping, SyscallProgram& program) {
  if (!huge_->ready()) {
    huge_->make_ready(space_.allocate(kHugePageSize, RemotePtr()), huge_->lowest_free_fd());
  }
  if (std::exchange(mapping.has_huge_pages, true)) return;
  huge_->add_mapping({mapping.at, mapping.size()}, program);
}

// Memory that is not mapped to be written to yet.
void Restorer::open_for_pages(Mapping& mapping, SyscallProgram& program) {
  Vma::Reader vma = mapping.vma();
  if (!has_own_pages(vma)) {
    throw Error(Code::kCorrupt, "the image has pages for a mapping that cannot have any");
  }
  if (mapping.protection == (PROT_READ | PROT_WRITE)) return;
  program.call(fmt::format("opening memory at {:#x}", vma.getStart()), SYS_mprotect,
               {mapping.at, mapping.size(), PROT_READ | PROT_WRITE});
  mapping.protection = PROT_READ | PROT_WRITE;
}

// Nothing of what is still to be restored touches a page before it can be waited for.
void Restorer::begin_to_follow() {
  LazyMemory lazy;
  for (const Mapping& mapping : mappings_) {
    if (!mapping.vma().getLazy()) continue;
    if (settings_.kept_follows) throw Error(Code::kCorrupt, "its memory was not to follow later");
    const kernel::PageRun range{mapping.start(), mapping.size() / kPageSize};
    kernel::append_run(lazy.ranges, range);
    if (has_flag(mapping.vma(), kernel::VmFlag::kWipeOnFork)) kernel::append_run(lazy.wiped, range);
  }
  lazy.arrived = std::move(arrived_of_lazy_);
  add_kept_that_follows(lazy);
  if (lazy.ranges.empty()) return;
  if (!settings_.follow) {
    throw Error(Code::kCorrupt, "its memory was to follow later, and nobody here waits for it");
  }
  lazy.userfaultfd = tracee::take_new_fd(blank_->stub(), "making a userfaultfd", SYS_userfaultfd,
                                         {kernel::Userfault::flags()});
  if (!lazy.userfaultfd) throw_errno("making a userfaultfd", errno, Code::kUnsupported);
  lazy.guest = blank_->pid();
  settings_.follow(std::move(lazy));
}

// All else of these mappings is there, or never will be.
void Restorer::add_kept_that_follows(LazyMemory& lazy) {
  std::sort(kept_to_follow_.begin(), kept_to_follow_.end(),
            [](const kernel::PageRun& a, const kernel::PageRun& b) { return a.start < b.start; });
  const std::vector<kernel::PageRun> kept = kernel::unite_runs(kept_to_follow_, {});
  if (kept.empty()) return;
  for (const Mapping& mapping : mappings_) {
    const kernel::PageRun range{mapping.start(), mapping.size() / kPageSize};
    if (kernel::subtract_runs(kept, range.start, range.end(), {}).empty()) continue;
    lazy.ranges.push_back(range);
    if (has_flag(mapping.vma(), kernel::VmFlag::kWipeOnFork)) lazy.wiped.push_back(range);
    for (const kernel::PageRun& run :
         kernel::subtract_runs({range}, range.start, range.end(), kept)) {
      lazy.arrived.push_back(run);
    }
  }
}

}  // namespace telefork::restore
