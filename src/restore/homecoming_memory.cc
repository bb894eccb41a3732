// Memory that comes home: what can be made before, and what the last program does.
#include <algorithm>
#include <cerrno>
#include <cstddef>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "kernel/abi.h"
#include "kernel/procfs.h"
#include "kernel/write_watch.h"
#include "restore/homecoming.h"
#include "tracee/memory.h"

namespace telefork::restore {
namespace {

using image::schema::Vma;
using kernel::VmFlag;
using tracee::Result;
using tracee::SyscallProgram;

constexpr std::size_t kMaxVectors = 1024;  // IOV_MAX
constexpr std::size_t kWorthACall = 16;
constexpr std::uint64_t kMaxRead = 1024 * 1024 * 1024;  // below MAX_RW_COUNT (include/linux/fs.h)

// Empty where they do not meet.
Range intersect(Range a, Range b) {
  RemotePtr start = std::max(a.start, b.start);
  RemotePtr end = std::min(a.end(), b.end());
  return {start, start < end ? end - start : 0};
}

// Of a vector that is sorted by addresses: those that may meet `range` begin here.
template <class List, class ToRange>
auto first_in(const List& list, Range range, ToRange to_range) {
  return std::partition_point(list.begin(), list.end(), [&](const auto& item) {
    return to_range(item).end() <= range.start;
  });
}

bool has(const kernel::Vma& vma, VmFlag flag) { return vma.has(flag); }

// Others' memory that this process may only look at: of it nothing comes home.
bool is_others(const kernel::Vma& home) {
  return home.shared && home.flags != 0 && !home.has(VmFlag::kMayWrite);
}

}  // namespace

// Nothing of it has run since it left: its flags are what they were, also of what has just grown.
std::vector<kernel::Vma> Homecoming::read_map() const {
  if (settings_.home.empty()) return kernel::read_smaps(parked_.pid());
  std::vector<kernel::Vma> map = kernel::read_maps(parked_.pid());
  tracee::Stub& stub = parked_.stub();
  for (kernel::Vma& vma : map) {
    auto known =
        std::partition_point(settings_.home.begin(), settings_.home.end(),
                             [&vma](const kernel::Vma& before) { return before.end < vma.end; });
    bool same = known != settings_.home.end() && known->start < vma.end &&
                known->start >= vma.start && known->protection() == vma.protection();
    if (known != settings_.home.begin() && !same) {
      // A heap has grown at its end.
      --known;
      same = known->start == vma.start && known->protection() == vma.protection();
    }
    if (same) vma.flags = known->flags;
    if (!same && !stub.owns(vma) && !is_area(vma)) return kernel::read_smaps(parked_.pid());
  }
  return map;
}

// Both maps; from here on there is room where neither has anything.
void Homecoming::learn_maps() {
  if (!process_) throw Error(Code::kCorrupt, "the image lacks its process");
  maps_are_known_ = true;
  home_ = read_map();
  for (const image::Record& record : vma_records_) vmas_.push_back(record.get<Vma>());
  auto by_start = [](const auto& a, const auto& b) { return a.getStart() < b.getStart(); };
  std::sort(vmas_.begin(), vmas_.end(), by_start);
  for (const kernel::Vma& vma : home_) {
    if (!vma.is_vsyscall()) space_.take(vma.start, vma.end);
  }
  for (Vma::Reader vma : vmas_) {
    if (vma.getKind() != Vma::Kind::VSYSCALL) {
      space_.take(RemotePtr(vma.getStart()), RemotePtr(vma.getEnd()));
    }
  }
  place_before_ = parked_.stub().set_place(
      [this](std::uint64_t size) { return space_.allocate(size, RemotePtr()); });
  choose_areas();
}

void Homecoming::sort_what_came() {
  std::sort(runs_.begin(), runs_.end(),
            [](const Run& a, const Run& b) { return a.range.start < b.range.start; });
  std::sort(dropped_.begin(), dropped_.end(),
            [](const Range& a, const Range& b) { return a.start < b.start; });
}

// The heap grows as the program's own would.
void Homecoming::grow_heap() {
  SyscallProgram ask;
  Result now = ask.call("asking for the program break", SYS_brk, {0});
  auto here = static_cast<std::uint64_t>(parked_.stub().run(ask).result(now));
  std::uint64_t there = process().getLayout().getBrk();
  brk_ = here;
  if (there <= here) return;
  reverse_by(SYS_brk, {here});
  tell_reversal();
  SyscallProgram program;
  Result grown = program.call("growing the heap", SYS_brk, {there});
  auto result = static_cast<std::uint64_t>(parked_.stub().run(program).result(grown));
  if (result != there) {
    throw Error(Code::kResources,
                fmt::format("growing the heap from {:#x} to {:#x} here", here, there), ENOMEM);
  }
}

// A stack grows when something below it is touched. The kernel touches it.
void Homecoming::grow_stacks() {
  SyscallProgram program;
  for (Vma::Reader vma : vmas_) {
    if (!has_flag(vma, VmFlag::kGrowsDown)) continue;
    auto here = std::find_if(home_.begin(), home_.end(), [&](const kernel::Vma& home) {
      return has(home, VmFlag::kGrowsDown) && home.start.value() > vma.getStart() &&
             home.start.value() < vma.getEnd();
    });
    if (here == home_.end()) continue;
    if (here != home_.begin() && std::prev(here)->end.value() > vma.getStart()) continue;
    std::uint64_t size = here->start.value() - vma.getStart();
    reverse_by(SYS_munmap, {vma.getStart(), size});
    program.call("growing the stack to " + place_name(vma), SYS_clock_gettime,
                 {CLOCK_MONOTONIC, vma.getStart()});
    program.call("emptying the stack", SYS_madvise, {vma.getStart(), kPageSize, MADV_DONTNEED});
  }
  if (program.empty()) return;
  tell_reversal();
  try {
    run(program);
  } catch (const Error& error) {
    if (error.error() != EFAULT) throw;
    throw Error(Code::kResources, error.text() + ": its limit here does not let it (RLIMIT_STACK)",
                ENOMEM);
  }
}

void Homecoming::plan_memory() {
  home_ = read_map();
  tracee::Stub& stub = parked_.stub();
  std::vector<Range> own;
  for (const tracee::Stub::Room& room : stub.rooms()) own.push_back({room.address, room.size});
  for (const Area& area : areas_) {
    if (area.at) own.push_back({area.at, area.range.size});
  }
  pieces_ = plan_map(home_, vmas_, own);
  check_executable();
  choose_replacements();
  shared_inodes_ = match_shared_memory(pieces_);
  std::size_t most = most_vmas(pieces_) + kernel::kOwnMappings;
  if (most > settings_.max_map_count) {
    throw Error(Code::kResources,
                fmt::format("its memory map is of up to {} mappings while it changes, and "
                            "vm.max_map_count is {} here",
                            most, settings_.max_map_count),
                ENOMEM);
  }
}

// Where nothing may become executable (PR_SET_MDWE), nor can what is to come.
void Homecoming::check_executable() {
  if (process().getMdwe() == 0) return;
  SyscallProgram ask;
  const Result mdwe = ask.call("asking for MDWE", SYS_prctl, {kernel::kPrGetMdwe, 0, 0, 0, 0});
  if (parked_.stub().run(ask).result(mdwe) == 0) return;
  nothing_becomes_executable_ = true;
  for (const MapPiece& piece : pieces_) {
    if (piece.image == nullptr || (piece.image->getProtection() & PROT_EXEC) == 0) continue;
    const bool is_new = piece.kind != MapPiece::Kind::kKeep;
    const bool is_so = is_new || (piece.home->protection() & PROT_EXEC) != 0;
    if (is_so && runs_in(piece.range).empty()) continue;
    throw Error(Code::kRefused,
                fmt::format("executable memory at {} has changed there, and here it may not "
                            "(PR_SET_MDWE)",
                            place_name(piece.range)));
  }
}

std::vector<Homecoming::Run> Homecoming::runs_in(Range range) const {
  std::vector<Run> found;
  auto next = first_in(runs_, range, [](const Run& run) { return run.range; });
  for (; next != runs_.end() && next->range.start < range.end(); ++next) {
    Range part = intersect(next->range, range);
    std::uint64_t skipped = part.start - next->range.start;
    found.push_back(
        {part, next->offset + skipped, next->staged ? next->staged + skipped : RemotePtr()});
  }
  return found;
}

std::vector<Homecoming::Run> Homecoming::runs_in_place(const MapPiece& piece) const {
  if (piece.kind != MapPiece::Kind::kKeep || is_others(*piece.home)) return {};
  return runs_in(piece.range);
}

std::vector<Range> Homecoming::dropped_in(Range range) const {
  std::vector<Range> found;
  auto next = first_in(dropped_, range, [](const Range& dropped) { return dropped; });
  for (; next != dropped_.end() && next->start < range.end(); ++next) {
    found.push_back(intersect(*next, range));
  }
  return found;
}

// The word that will be there, where `at` is a multiple of its size. Before fill_staged(), which
// moves what waits.
std::optional<std::uint64_t> Homecoming::read_what_came(RemotePtr at) const {
  std::uint64_t word = 0;
  const Range range{at, sizeof(word)};
  if (!dropped_in(range).empty()) return word;
  const std::vector<Run> runs = runs_in(range);
  const auto bytes = std::as_writable_bytes(std::span(&word, 1));
  if (!runs.empty() && !runs[0].staged) {
    auto offset = static_cast<off_t>(runs[0].offset);
    if (::pread(pages_.get(), &word, sizeof(word), offset) != ssize_t{sizeof(word)}) {
      throw_errno("reading what came");
    }
    return word;
  }
  const RemotePtr here = runs.empty() ? at : runs[0].staged;
  if (tracee::try_read_memory(parked_.pid(), here, bytes) != bytes.size()) return std::nullopt;
  return word;
}

int Homecoming::protection_of_new(Vma::Reader vma) const {
  const auto wanted = static_cast<int>(vma.getProtection());
  const bool at_once = nothing_becomes_executable_ && (wanted & PROT_EXEC) != 0;
  return at_once ? wanted : first_protection(vma);
}

// Everything that is not at home, or not there; in the way of nothing.
void Homecoming::map_pieces() {
  for (const MapPiece& piece : pieces_) {
    if (!piece.is_mapped_anew()) continue;
    if (auto area = replaced_.find(&piece); area != replaced_.end()) {
      staged_.push_back({&piece, area->second->at, kWritable});
      continue;
    }
    bool moves = piece.kind == MapPiece::Kind::kReplace;
    RemotePtr at = moves ? space_.allocate(piece.range.size, piece.range.start) : piece.range.start;
    reverse_by(SYS_munmap, {at, piece.range.size});
    bool filled = !runs_in(piece.range).empty();
    staged_.push_back({&piece, at, filled ? kWritable : protection_of_new(*piece.image)});
  }
  plan_wholes();
  if (staged_.empty()) return;
  tell_reversal();
  SyscallProgram program;
  for (Staged& staged : staged_) {
    if (replaced_.count(staged.piece) != 0) continue;
    map_piece(staged, program);
    run(program, false);
  }
  run(program);
  for (const auto& [id, whole] : wholes_) {
    program.call("unmapping shared memory", SYS_munmap, {whole.start, whole.size});
  }
  run(program);
}

// New shared memory that is mapped more than once or in part is mapped whole first; each mapping is
// a copy of a part of it: mremap(2) from a size of 0.
void Homecoming::plan_wholes() {
  for (Vma::Reader vma : vmas_) {
    if (vma.getKind() != Vma::Kind::SHARED_ANONYMOUS) continue;
    if (shared_inodes_.count(vma.getSharedId()) != 0) continue;
    Range& whole = wholes_[vma.getSharedId()];
    whole.size = std::max(whole.size, vma.getOffset() + vma.getEnd() - vma.getStart());
  }
  for (auto& [id, whole] : wholes_) {
    whole.start = space_.allocate(whole.size, RemotePtr());
    reverse_by(SYS_munmap, {whole.start, whole.size});
  }
}

// Where all of the range of a shared object can be seen now.
RemotePtr Homecoming::find_shared(const MapPiece& piece, SyscallProgram& program) {
  std::uint64_t id = piece.image->getSharedId();
  if (auto whole = wholes_.find(id); whole != wholes_.end()) {
    if (whole_is_mapped_.insert(id).second) {
      program.call_expecting("mapping shared memory",
                             static_cast<std::int64_t>(whole->second.start.value()), SYS_mmap,
                             {whole->second.start, whole->second.size, kWritable,
                              map_flags(*piece.image) | MAP_FIXED_NOREPLACE, -1, 0});
    }
    return whole->second.start + piece.offset();
  }
  std::uint64_t inode = shared_inodes_.at(id);
  for (const kernel::Vma& vma : home_) {
    if (!vma.is_shared_anonymous() || vma.inode != inode || vma.offset > piece.offset()) continue;
    std::uint64_t skip = piece.offset() - vma.offset;
    if (skip + piece.range.size <= vma.size()) return vma.start + skip;
  }
  throw Error(Code::kRefused, fmt::format("shared memory at {} was mapped there in a way that "
                                          "cannot be had from what is mapped here",
                                          place_name(piece.range)));
}

void Homecoming::map_piece(Staged& staged, SyscallProgram& program) {
  const MapPiece& piece = *staged.piece;
  std::string name = "mapping memory at " + place_name(piece.range);
  auto expected = static_cast<std::int64_t>(staged.at.value());
  if (piece.image->getKind() == Vma::Kind::SHARED_ANONYMOUS) {
    staged.protection = kWritable;
    RemotePtr from = find_shared(piece, program);
    program.call_expecting(name, expected, SYS_mremap,
                           {from, 0, piece.range.size, MREMAP_MAYMOVE | MREMAP_FIXED, staged.at});
    // It has the protection of what it is a copy of.
    program.call("opening memory at " + place_name(piece.range), SYS_mprotect,
                 {staged.at, piece.range.size, staged.protection});
    return;
  }
  auto file = mapped_files_.find(&piece);
  int fd = file == mapped_files_.end() ? -1 : given_.at(file->second);
  std::uint64_t offset = fd < 0 ? 0 : piece.offset();
  program.call_expecting(name, expected, SYS_mmap,
                         {staged.at, piece.range.size, staged.protection,
                          map_flags(*piece.image) | MAP_FIXED_NOREPLACE, fd, offset});
}

// In as few calls as can be.
void Homecoming::add_pages(const std::vector<Run>& runs, SyscallProgram& program) const {
  std::size_t done = 0;
  while (done < runs.size()) {
    std::vector<iovec> to, from;
    std::uint64_t bytes = 0;
    const Run& first = runs[done];
    for (; done < runs.size() && to.size() < kMaxVectors; ++done) {
      const Run& run = runs[done];
      if (static_cast<bool>(run.staged) != static_cast<bool>(first.staged)) break;
      if (!run.staged && run.offset != first.offset + bytes) break;
      if (bytes > 0 && bytes + run.range.size > kMaxRead) break;
      to.push_back({reinterpret_cast<void*>(run.range.start.value()), run.range.size});
      from.push_back({reinterpret_cast<void*>(run.staged.value()), run.range.size});
      bytes += run.range.size;
    }
    tracee::Data vectors = program.bytes(std::as_bytes(std::span(to)));
    auto expected = static_cast<std::int64_t>(bytes);
    if (first.staged) {
      program.call_expecting("copying pages into place", expected, SYS_process_vm_readv,
                             {parked_.stub().own_pid(), vectors, to.size(),
                              program.bytes(std::as_bytes(std::span(from))), from.size(), 0});
    } else {
      program.call_expecting("putting pages in place", expected, SYS_preadv,
                             {pages_fd_, vectors, to.size(), first.offset, 0});
    }
  }
}

void Homecoming::fill_staged() {
  SyscallProgram program;
  std::vector<Run> moved;
  for (const Staged& staged : staged_) {
    Range range = staged.piece->range;
    auto area = replaced_.find(staged.piece);
    if (area != replaced_.end()) {
      add_pages(rest_of(*area->second), program);
    } else if (has_flag(*staged.piece->image, VmFlag::kHugePage)) {
      program.call_any("MADV_HUGEPAGE", SYS_madvise, {staged.at, range.size, MADV_HUGEPAGE});
    }
    for (Run run : runs_in(range)) {
      // It is there already.
      if (area != replaced_.end() && run.staged) continue;
      run.range.start = staged.at + (run.range.start - range.start);
      program.call("making memory present at " + place_name(range), SYS_madvise,
                   {run.range.start, run.range.size, kernel::kMadvPopulateWrite});
      moved.push_back(run);
      this->run(program, false);
    }
  }
  add_pages(moved, program);
  this->run(program);
}

// By process_madvise(2), where the kernel lets a process give itself this advice (Linux 6.13)
// without a pidfd of itself (6.15): a thousand pages are one call. False: not all of them are
// present.
bool Homecoming::make_present_at_once(const std::vector<Run>& runs) const {
  SyscallProgram program;
  std::vector<std::pair<Result, std::uint64_t>> wanted;
  for (std::size_t first = 0; first < runs.size(); first += kMaxVectors) {
    std::vector<iovec> vectors;
    std::uint64_t bytes = 0;
    for (std::size_t i = first; i < std::min(first + kMaxVectors, runs.size()); ++i) {
      const Range& range = runs[i].range;
      vectors.push_back({reinterpret_cast<void*>(range.start.value()), range.size});
      bytes += range.size;
    }
    wanted.emplace_back(
        program.call_any("making memory present", SYS_process_madvise,
                         {kernel::kPidfdSelf, program.bytes(std::as_bytes(std::span(vectors))),
                          vectors.size(), kernel::kMadvPopulateWrite, 0}),
        bytes);
  }
  if (program.empty()) return true;
  const tracee::ProgramRun run = parked_.stub().run(program);
  return std::all_of(wanted.begin(), wanted.end(), [&run](const auto& one) {
    return run.result(one.first) == static_cast<std::int64_t>(one.second);
  });
}

// What is written to in place: afterwards nothing more is asked of the kernel for it.
void Homecoming::make_present() {
  SyscallProgram open, populate, close;
  std::vector<Run> plain;
  for (const MapPiece& piece : pieces_) {
    std::vector<Run> runs = runs_in_place(piece);
    if (runs.empty()) continue;
    int protection = piece.home->protection();
    if ((protection & PROT_WRITE) == 0) {
      Range opened{runs.front().range.start, runs.back().range.end() - runs.front().range.start};
      opened_[&piece] = opened;
      reverse_by(SYS_mprotect, {opened.start, opened.size, protection});
      open.call("opening memory at " + place_name(opened), SYS_mprotect,
                {opened.start, opened.size, kWritable});
      close.call("closing memory at " + place_name(opened), SYS_mprotect,
                 {opened.start, opened.size, protection});
    }
    if (!has(*piece.home, VmFlag::kGuard)) {
      plain.insert(plain.end(), runs.begin(), runs.end());
      continue;
    }
    // A guard page is taken away only later.
    for (const Run& run : runs) {
      populate.call_any("making memory present", SYS_madvise,
                        {run.range.start, run.range.size, kernel::kMadvPopulateWrite});
    }
  }
  if (!open.empty()) tell_reversal();
  run(open);
  // For the Error, which names what failed.
  if (plain.size() < kWorthACall || !make_present_at_once(plain)) {
    for (const Run& run : plain) {
      populate.call("making memory present", SYS_madvise,
                    {run.range.start, run.range.size, kernel::kMadvPopulateWrite});
    }
  }
  run(populate);
  run(close);
}

// In the order of what stands in the way of what.
void Homecoming::add_memory(SyscallProgram& program) {
  std::uint64_t brk = process().getLayout().getBrk();
  if (brk < brk_) {
    program.call_expecting("shrinking the heap", static_cast<std::int64_t>(brk), SYS_brk, {brk});
  }
  std::vector<Run> in_place;
  for (const MapPiece& piece : pieces_) {
    if (piece.kind != MapPiece::Kind::kKeep) continue;
    add_kept_piece(piece, program);
    for (const Run& run : runs_in_place(piece)) in_place.push_back(run);
  }
  add_pages(in_place, program);
  for (const MapPiece& piece : pieces_) {
    if (piece.kind != MapPiece::Kind::kRemove) continue;
    program.call("unmapping memory at " + place_name(piece.range), SYS_munmap,
                 {piece.range.start, piece.range.size});
  }
  for (const Staged& staged : staged_) add_moved_piece(staged, program);
  add_unmapping_of_areas(program);
  for (const MapPiece& piece : pieces_) {
    if (piece.kind != MapPiece::Kind::kKeep) continue;
    int protection = opened_.count(&piece) != 0 ? -1 : piece.home->protection();
    bool unlocked = unlocked_.count(&piece) != 0;
    std::uint64_t flags = piece.home->flags;
    if (unlocked) flags &= ~static_cast<std::uint64_t>(VmFlag::kLocked);
    add_settings(piece, protection, flags, program);
  }
}

// Where it has no number left the next call does without.
void Homecoming::give_watch() {
  if (settings_.watch_fd >= 0) watch_there_ = try_give(settings_.watch_fd);
}

// Where one fails the pages count as written.
void Homecoming::add_watch(SyscallProgram& program) const {
  if (watch_there_ < 0) return;
  auto ask = [&](const char* name, const kernel::WriteWatch::Request& request) {
    program.call_any(name, SYS_ioctl,
                     {watch_there_, request.number, program.object(request.argument)});
  };
  auto protect = [&](Range range) {
    ask("protecting pages from writes",
        kernel::WriteWatch::protecting({range.start, range.size / kPageSize}));
  };
  for (const MapPiece& piece : pieces_) {
    if (piece.image == nullptr || piece.image->getKind() != Vma::Kind::ANONYMOUS) continue;
    if (piece.image->getEnd() - piece.image->getStart() < kernel::kLeastWatched) continue;
    if (piece.is_mapped_anew()) {
      ask("watching memory for writes",
          kernel::WriteWatch::enlisting({piece.range.start, piece.range.size / kPageSize}));
    }
    const std::vector<Run> runs = runs_in(piece.range);
    if (replaced_.count(&piece) != 0) {
      protect(piece.range);
    } else if (runs.size() > kMaxVectors) {
      protect({runs.front().range.start, runs.back().range.end() - runs.front().range.start});
    } else {
      for (const Run& run : runs) protect(run.range);
    }
  }
  program.call_any("closing a userfaultfd", SYS_close, {watch_there_});
}

// What it holds; how it is protected comes when all is in place.
void Homecoming::add_kept_piece(const MapPiece& piece, SyscallProgram& program) {
  Range range = piece.range;
  std::vector<Range> dropped = dropped_in(range);
  bool guards = has(*piece.home, VmFlag::kGuard) || piece.image->getGuardRuns().size() > 0;
  // What is locked can be neither dropped nor guarded.
  if (has(*piece.home, VmFlag::kLocked) && (guards || !dropped.empty())) {
    program.call("unlocking memory", SYS_munlock, {range.start, range.size});
    unlocked_.insert(&piece);
  }
  if (has(*piece.home, VmFlag::kGuard)) {
    program.call_any("removing guard pages", SYS_madvise,
                     {range.start, range.size, kernel::kMadvGuardRemove});
  }
  bool shared = piece.image->getKind() == Vma::Kind::SHARED_ANONYMOUS;
  for (Range run : dropped) {
    program.call("dropping pages", SYS_madvise,
                 {run.start, run.size, shared ? MADV_REMOVE : MADV_DONTNEED});
  }
  if (auto opened = opened_.find(&piece); opened != opened_.end()) {
    program.call("opening memory at " + place_name(range), SYS_mprotect,
                 {opened->second.start, opened->second.size, kWritable});
  }
}

void Homecoming::add_moved_piece(const Staged& staged, SyscallProgram& program) const {
  const MapPiece& piece = *staged.piece;
  if (staged.at != piece.range.start) {
    program.call_expecting("moving memory to " + place_name(piece.range),
                           static_cast<std::int64_t>(piece.range.start.value()), SYS_mremap,
                           {staged.at, piece.range.size, piece.range.size,
                            MREMAP_MAYMOVE | MREMAP_FIXED, piece.range.start});
  }
  // It may be memory that home has had all the time.
  if (piece.image->getKind() == Vma::Kind::SHARED_ANONYMOUS) {
    for (Range run : dropped_in(piece.range)) {
      program.call("dropping pages", SYS_madvise, {run.start, run.size, MADV_REMOVE});
    }
  }
  add_settings(piece, staged.protection, 0, program);
}

// `protection` and `flags` are those that it has; -1: in parts another one.
void Homecoming::add_settings(const MapPiece& piece, int protection, std::uint64_t flags,
                              SyscallProgram& program) const {
  Range range = piece.range;
  Vma::Reader image = *piece.image;
  auto wanted = static_cast<int>(image.getProtection());
  if (protection != wanted) {
    program.call("protecting memory at " + place_name(range), SYS_mprotect,
                 {range.start, range.size, wanted});
  }
  add_advice(image, flags, range, program);
  for (image::schema::PageRun::Reader run : image.getGuardRuns()) {
    Range part = intersect(range_of(run), range);
    if (part.size == 0) continue;
    program.call("installing guard pages at " + place_name(part), SYS_madvise,
                 {part.start, part.size, kernel::kMadvGuardInstall});
  }
  bool locked = (flags & static_cast<std::uint64_t>(VmFlag::kLocked)) != 0;
  bool lock = has_flag(image, VmFlag::kLocked);
  if (lock && !locked) {
    // This user may lock less here; and guard pages cannot be made present.
    int on_fault = has_flag(image, VmFlag::kLockOnFault) ? MLOCK_ONFAULT : 0;
    program.call_any("locking memory", SYS_mlock2, {range.start, range.size, on_fault});
  } else if (locked && !lock) {
    program.call("unlocking memory", SYS_munlock, {range.start, range.size});
  }
}

}  // namespace telefork::restore
