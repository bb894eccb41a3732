// Memory that comes while the process runs elsewhere still: in rounds, each page as often as it is
// written to.
//
//   round 0     where it lies there: the same is mapped in the blank, at the same addresses
//   pages       are received into place, like those of a process that stands still
//   the last    the Process follows, with the map as it is then, which says of each mapping
//               what of its pages that came still holds
//
// What of the areas belongs to a mapping that has such pages stays where it is, whatever was split
// or grew meanwhile; the rest of them goes. A page that came and is not named has to be zero.
//
// All else that lies in the blank, the stub first, lies far from where programs map anything by
// themselves (address_space.h), and from what was mapped there in round 0. A program that maps
// something at just that address meanwhile cannot come, and runs on where it is.
#include <algorithm>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_maps.h"
#include "kernel/write_watch.h"
#include "restore/restorer.h"
#include "restore/vma_rules.h"
#include "tracee/same_cpu.h"

namespace telefork::restore {
namespace {

using image::schema::Vma;
using kernel::PageRun;
using tracee::SyscallProgram;

// Every address that there is.
constexpr RemotePtr kFirst(0);
constexpr RemotePtr kLast(UINT64_MAX / kPageSize * kPageSize);

std::vector<PageRun> staged_of(Vma::Reader vma) {
  std::vector<PageRun> runs;
  for (image::schema::PageRun::Reader run : vma.getStaged()) {
    kernel::append_run(runs, {RemotePtr(run.getStart()), run.getPages()});
  }
  return runs;
}

// Those of `areas`, which rise, that lie there in part at least. A process may have 65,530.
template <class Mapping>
std::span<const Mapping> areas_in(const std::vector<Mapping>& areas, RemotePtr start,
                                  RemotePtr end) {
  const auto first = std::partition_point(areas.begin(), areas.end(), [start](const Mapping& area) {
    return area.start() + area.size() <= start;
  });
  const auto last = std::partition_point(first, areas.end(),
                                         [end](const Mapping& area) { return area.start() < end; });
  return {first, last};
}

}  // namespace

void Restorer::take_round(image::Record record) {
  if (!settings_.on_round) {
    throw Error(Code::kCorrupt, "pages of it come in rounds, and nobody here waits for them");
  }
  const auto round = record.get<image::schema::Round>();
  const std::uint32_t number = round.getNumber();
  const bool last = round.getLast();
  if (!first_round_) {
    first_round_ = std::move(record);
    in_rounds_ = true;
  } else {
    map_areas();
    is_first_round_ = false;
  }
  settings_.on_round(number, last);
}

// When all of them have come.
void Restorer::map_areas() {
  if (std::exchange(areas_mapped_, true)) return;
  is_first_round_ = true;
  with_context("making the guest's process",
               [&] { prepare_staging(first_round_->get<image::schema::Round>()); });
}

void Restorer::prepare_staging(image::schema::Round::Reader round) {
  std::sort(mappings_.begin(), mappings_.end(),
            [](const Mapping& a, const Mapping& b) { return a.start() < b.start(); });
  for (const std::uint32_t id : round.getIds()) {
    settings_.tree_ids.push_back(static_cast<pid_t>(id));
  }
  if (blank_ && !blank_has_ids()) blank_.reset();
  if (!blank_) start_blank(true);
  tracee::SameCpu turns(blank_->pid());
  for (image::schema::PageRun::Reader run : round.getTaken()) {
    const Range range = range_of(run);
    space_.take(range.start, range.end());
  }
  for (const Mapping& mapping : mappings_) {
    space_.take(mapping.start(), mapping.start() + mapping.size());
  }
  place_stub();
  give_bulk();
  SyscallProgram program;
  move_vdso_aside(program);
  clear_blank(program);
  for (Mapping& mapping : mappings_) {
    const Vma::Reader vma = mapping.vma();
    if (vma.getKind() != Vma::Kind::ANONYMOUS || has_flag(vma, kernel::VmFlag::kHugeTlb)) {
      throw Error(Code::kCorrupt, "pages come in rounds of memory that is not anonymous");
    }
    mapping.protection = first_protection(vma);
    map_area({mapping.start(), mapping.size()}, vma, program);
    kernel::append_run(area_runs_, {mapping.start(), mapping.size() / kPageSize});
    run_if_large(program);
  }
  run_if_large(program, true);
}

void Restorer::map_area(Range range, Vma::Reader vma, SyscallProgram& program) {
  program.call_expecting("mapping memory at " + place_name(range),
                         static_cast<std::int64_t>(range.start.value()), SYS_mmap,
                         {range.start, range.size, first_protection(vma),
                          map_flags(vma) | MAP_FIXED_NOREPLACE, -1, 0});
}

void Restorer::give_bulk() {
  if (settings_.bulk_fd < 0) return;
  const int numbers[] = {settings_.bulk_fd};
  bulk_in_blank_ = blank_->give_fds(numbers).front();
}

// The process stands still; what follows is what it is.
void Restorer::end_rounds() {
  if (!in_rounds_) return;
  map_areas();
  in_rounds_ = false;
  areas_ = std::move(mappings_);
  mappings_.clear();
  settings_.tree_ids.clear();
  // What is mapped next to memory that a userfaultfd watches never becomes one with it.
  SyscallProgram program;
  huge_->add_end(program);
  run_if_large(program, true);
  huge_.emplace(blank_->stub(), settings_.moves_pages);
}

void Restorer::check_staged() const {
  for (const Mapping& mapping : mappings_) {
    if (!mapping.vma().hasStaged()) continue;
    const std::vector<PageRun> staged = staged_of(mapping.vma());
    const RemotePtr start = mapping.start();
    const RemotePtr end = start + mapping.size();
    bool alike = mapping.vma().getKind() == Vma::Kind::ANONYMOUS;
    for (const Mapping& area : areas_in(areas_, start, end)) {
      alike = alike && map_flags(area.vma()) == map_flags(mapping.vma());
    }
    if (!alike || !kernel::subtract_runs(staged, start, end, came_in_rounds_).empty()) {
      throw Error(Code::kCorrupt,
                  fmt::format("the memory at {} has pages of rounds in which they did not come",
                              place_name(mapping.vma())));
    }
  }
}

// What of the areas is not the program's memory any more goes, and what its pages have lost.
void Restorer::keep_staged(SyscallProgram& program) {
  check_staged();
  std::vector<PageRun> kept;
  std::vector<PageRun> staged;
  for (const Mapping& mapping : mappings_) {
    if (!mapping.vma().hasStaged()) continue;
    kernel::append_run(kept, {mapping.start(), mapping.size() / kPageSize});
    for (const PageRun& run : staged_of(mapping.vma())) kernel::append_run(staged, run);
  }
  for (const PageRun& run : kernel::subtract_runs(area_runs_, kFirst, kLast, kept)) {
    program.call("unmapping what came in rounds", SYS_munmap, {run.start, run.pages * kPageSize});
    run_if_large(program);
  }
  const std::vector<PageRun> still_there = kernel::intersect_runs(came_in_rounds_, kept);
  for (const PageRun& run : kernel::subtract_runs(still_there, kFirst, kLast, staged)) {
    program.call("emptying memory", SYS_madvise, {run.start, run.pages * kPageSize, MADV_DONTNEED});
    run_if_large(program);
  }
}

void Restorer::map_staged(Mapping& mapping, SyscallProgram& program) {
  const Vma::Reader vma = mapping.vma();
  const PageRun whole{mapping.start(), mapping.size() / kPageSize};
  for (const PageRun& run : kernel::subtract_runs({whole}, whole.start, whole.end(), area_runs_)) {
    map_area({run.start, run.pages * kPageSize}, vma, program);
  }
  mapping.protection = first_protection(vma);
  const auto areas = areas_in(areas_, whole.start, whole.end());
  const bool alike = std::all_of(areas.begin(), areas.end(), [&](const Mapping& area) {
    return area.protection == mapping.protection;
  });
  if (alike) return;
  program.call("protecting memory at " + place_name(vma), SYS_mprotect,
               {mapping.start(), mapping.size(), mapping.protection});
}

void Restorer::drop_pages(::capnp::List<image::schema::PageRun>::Reader runs,
                          SyscallProgram& program) {
  for (image::schema::PageRun::Reader run : runs) {
    const Range range = range_of(run);
    program.call("emptying memory", SYS_madvise, {range.start, range.size, MADV_DONTNEED});
    run_if_large(program);
  }
}

}  // namespace telefork::restore
