// Where pages wait that have come home, until all of them are here: those of large anonymous
// mappings in the process itself, all others in a memory file. What waits in the process is copied
// less often: the process receives it, where its bytes come raw, and it takes the place of the old
// memory by one mremap(2) where most of it is new.
#include <algorithm>
#include <utility>

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "base/file_io.h"
#include "kernel/pagemap.h"
#include "restore/homecoming.h"
#include "restore/page_reception.h"

namespace telefork::restore {
namespace {

using image::schema::Vma;
using kernel::VmFlag;
using tracee::SyscallProgram;

constexpr std::size_t kStagingBuffer = 256 * 1024;

// Whether one like it can stand in its place, and nobody can tell: all that a VMA has is in its
// flags, but for a memory policy, see map_area(). What has a name of the kernel's or the program's
// is where the kernel looks for it, or is not made anew by its flags.
bool can_be_replaced(const kernel::Vma& home) {
  return home.is_anonymous() && home.path.empty() && home.read && !home.has(VmFlag::kGrowsDown) &&
         !home.has(VmFlag::kLocked) && !home.has(VmFlag::kGuard) && !home.has(VmFlag::kDontExpand);
}

}  // namespace

// By the first page every VMA is known.
void Homecoming::choose_areas() {
  tracee::Stub& stub = parked_.stub();
  for (Vma::Reader vma : vmas_) {
    Range range{RemotePtr(vma.getStart()), vma.getEnd() - vma.getStart()};
    if (vma.getKind() != Vma::Kind::ANONYMOUS || range.size < settings_.least_area) {
      continue;
    }
    auto home = std::partition_point(
        home_.begin(), home_.end(),
        [&range](const kernel::Vma& before) { return before.start < range.start; });
    if (home == home_.end() || home->start != range.start || home->end != range.end()) continue;
    if (stub.owns(*home) || !can_be_replaced(*home) || has_flag(vma, VmFlag::kLocked)) continue;
    Area area;
    area.range = range;
    area.flags = map_flags(vma);
    area.huge = has_flag(vma, VmFlag::kHugePage);
    area.huge_allowed = !area.huge && may_have_huge_pages(vma, process().getThpDisable());
    areas_.push_back(area);
  }
}

Homecoming::Area* Homecoming::area_behind(RemotePtr address) {
  auto area = std::partition_point(areas_.begin(), areas_.end(), [address](const Area& before) {
    return before.range.end() <= address;
  });
  return area == areas_.end() ? nullptr : &*area;
}

bool Homecoming::is_area(const kernel::Vma& vma) const {
  return std::any_of(areas_.begin(), areas_.end(), [&vma](const Area& area) {
    return vma.start == area.at && vma.size() == area.range.size;
  });
}

const Homecoming::Area* Homecoming::area_of(const MapPiece& piece) const {
  auto area = std::find_if(areas_.begin(), areas_.end(), [&piece](const Area& candidate) {
    return candidate.range.start == piece.range.start && candidate.range.size == piece.range.size;
  });
  return area == areas_.end() || !area->at || area->refused ? nullptr : &*area;
}

// False: it is not to be had, in which case the memory file will do.
bool Homecoming::map_area(Area& area) {
  RemotePtr at;
  try {
    at = space_.allocate(area.range.size, area.range.start);
  } catch (const Error& error) {
    if (error.code() != Code::kResources) throw;
    return false;
  }
  reverse_by(SYS_munmap, {at, area.range.size});
  tell_reversal();
  SyscallProgram program;
  // Of the mapping that is there (mbind(2)); ENOSYS: this kernel knows none.
  tracee::Data policy = program.buffer(sizeof(int));
  program.call_any("asking for a memory policy", SYS_get_mempolicy,
                   {policy, 0, 0, area.range.start, MPOL_F_ADDR});
  program.call_expecting("mapping memory to stage pages in", static_cast<std::int64_t>(at.value()),
                         SYS_mmap,
                         {at, area.range.size, kWritable, area.flags | MAP_FIXED_NOREPLACE, -1, 0});
  if (area.huge)
    program.call_any("MADV_HUGEPAGE", SYS_madvise, {at, area.range.size, MADV_HUGEPAGE});
  tracee::ProgramRun run = parked_.stub().try_run(program);
  if (run.failed() != tracee::kStubDone) return false;
  area.at = at;
  return run.object<int>(policy) == MPOL_DEFAULT;
}

// Where each part of a run is to wait.
void Homecoming::place_run(Range range, bool in_areas) {
  while (range.size > 0) {
    Area* area = in_areas ? area_behind(range.start) : nullptr;
    Run part;
    part.range = range;
    if (area != nullptr && area->range.start > range.start) {
      part.range.size = std::min<std::uint64_t>(range.size, area->range.start - range.start);
      area = nullptr;
    } else if (area != nullptr) {
      part.range.size = std::min<std::uint64_t>(range.size, area->range.end() - range.start);
      if (!area->at && !area->refused) area->refused = !map_area(*area);
      if (area->refused) area = nullptr;
    }
    if (area != nullptr) {
      part.staged = area->at + (range.start - area->range.start);
      area->bytes += part.range.size;
    } else {
      part.offset = pages_size_;
      pages_size_ += part.range.size;
    }
    runs_.push_back(part);
    range = {range.start + part.range.size, range.size - part.range.size};
  }
}

void Homecoming::take_pages(const image::Record& record, image::RecordSource& source) {
  if (!maps_are_known_) learn_maps();
  auto pages = record.get<image::schema::Pages>();
  for (image::schema::PageRun::Reader run : pages.getDropped()) dropped_.push_back(range_of(run));
  std::size_t first = runs_.size();
  const bool in_areas = record.payload_bytes() >= pages.getRuns().size() * settings_.least_run;
  for (image::schema::PageRun::Reader run : pages.getRuns()) place_run(range_of(run), in_areas);
  buffer_.resize(std::min<std::uint64_t>(record.payload_bytes(), kStagingBuffer));
  for (auto rest = std::span<const Run>(runs_).subspan(first); !rest.empty();) {
    bool staged = static_cast<bool>(rest.front().staged);
    auto end = std::find_if(rest.begin(), rest.end(), [staged](const Run& run) {
      return static_cast<bool>(run.staged) != staged;
    });
    auto part = rest.first(static_cast<std::size_t>(end - rest.begin()));
    staged ? take_into_areas(part, source) : take_into_file(part, source);
    rest = rest.subspan(part.size());
  }
}

void Homecoming::take_into_file(std::span<const Run> runs, image::RecordSource& source) {
  std::uint64_t left = 0;
  for (const Run& run : runs) left += run.range.size;
  while (left > 0) {
    auto bytes = std::span(buffer_).first(std::min<std::uint64_t>(left, buffer_.size()));
    source.read_payload(bytes);
    write_fully(pages_, bytes, "a memory file");
    left -= bytes.size();
  }
}

void Homecoming::take_into_areas(std::span<const Run> runs, image::RecordSource& source) {
  const bool raw = give_bulk();
  SyscallProgram program;
  std::vector<PagePiece> pieces;
  for (const Run& run : runs) {
    Area& area = *area_behind(run.range.start);
    pieces.push_back({run.staged, run.range.size, area.huge_allowed});
    if (pieces.back().has_huge()) get_ready_for_huge_pages(area, program);
  }
  if (raw) {
    std::uint64_t received =
        receive_pages(parked_.stub(), std::move(program), bulk_there_, pieces, huge_);
    source.payload_taken_elsewhere(received);
    pieces = drop_first(std::move(pieces), received);
  } else {
    add_population(pieces, huge_, true, program);
    run(program);
  }
  write_pages(parked_.pid(), pieces, source, buffer_);
}

void Homecoming::get_ready_for_huge_pages(Area& area, SyscallProgram& program) {
  if (!huge_.ready()) {
    int fd = huge_.lowest_free_fd();
    RemotePtr scratch = space_.allocate(kHugePageSize, RemotePtr());
    reverse_by(SYS_munmap, {scratch, kHugePageSize});
    reverse_by(SYS_close, {fd});
    tell_reversal();
    huge_.make_ready(scratch, fd);
  }
  if (std::exchange(area.has_huge_pages, true)) return;
  huge_.add_mapping({area.at, area.range.size}, program);
}

// Into the process, when it is to receive first. False: there is none, or no room for it there.
bool Homecoming::give_bulk() {
  if (settings_.bulk_fd < 0 || bulk_there_ >= 0) return bulk_there_ >= 0;
  // It does not wait where this end may, which looks for other things too meanwhile.
  constexpr timeval kPatience{1, 0};
  if (::setsockopt(settings_.bulk_fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience)) !=
      0) {
    throw_errno("setting a socket's patience");
  }
  bulk_there_ = try_give(settings_.bulk_fd);
  if (bulk_there_ < 0) settings_.bulk_fd = -1;
  return bulk_there_ >= 0;
}

void Homecoming::end_reception() {
  SyscallProgram program;
  huge_.add_end(program);
  if (bulk_there_ >= 0) {
    program.call("closing the connection to the node", SYS_close, {std::exchange(bulk_there_, -1)});
  }
  run(program);
}

// All of it can take the place of what is there: then the rest is copied from there.
bool Homecoming::most_has_come(const Area& area) const {
  kernel::PageMap map(parked_.pid(), settings_.pagemap);
  std::uint64_t here = kernel::count_pages(map.private_pages(area.range.start, area.range.end(),
                                                             kernel::PageMap::Of::kAnonymous)) *
                       kPageSize;
  return area.bytes >= here / 2;
}

void Homecoming::choose_replacements() {
  for (MapPiece& piece : pieces_) {
    const Area* area = area_of(piece);
    if (area == nullptr || piece.kind != MapPiece::Kind::kKeep || !most_has_come(*area)) continue;
    piece.kind = MapPiece::Kind::kReplace;
    replaced_.emplace(&piece, area);
  }
}

// What is neither new nor dropped, from where it is into where it will be.
std::vector<Homecoming::Run> Homecoming::rest_of(const Area& area) const {
  kernel::PageMap map(parked_.pid(), settings_.pagemap);
  std::vector<Range> gone = dropped_in(area.range);
  for (const Run& run : runs_in(area.range)) gone.push_back(run.range);
  std::sort(gone.begin(), gone.end(),
            [](const Range& a, const Range& b) { return a.start < b.start; });
  std::vector<Run> rest;
  auto next = gone.begin();
  for (const kernel::PageRun& here :
       map.private_pages(area.range.start, area.range.end(), kernel::PageMap::Of::kAnonymous)) {
    RemotePtr at = here.start;
    while (at < here.end()) {
      while (next != gone.end() && next->end() <= at) ++next;
      RemotePtr end = next == gone.end() ? here.end() : std::min(here.end(), next->start);
      if (at < end) {
        Run run;
        run.range = {area.at + (at - area.range.start), end - at};
        run.staged = at;
        rest.push_back(run);
        at = end;
      } else {
        at = std::min(here.end(), next->end());
      }
    }
  }
  return rest;
}

// Those that have not taken anything's place.
void Homecoming::add_unmapping_of_areas(SyscallProgram& program) const {
  for (const Area& area : areas_) {
    bool replaces = std::any_of(replaced_.begin(), replaced_.end(),
                                [&area](const auto& pair) { return pair.second == &area; });
    if (!area.at || replaces) continue;
    program.call("unmapping what pages were staged in", SYS_munmap, {area.at, area.range.size});
  }
}

}  // namespace telefork::restore
