// The memory map: mapped before the first page arrives, made what it was when all of them are in.
//
// Every mapping is made at its own address, writable, since nothing else lies there any more: the
// blank process was cleared, the stub and the parked vDSO were put where the guest has nothing. So
// a VMA is one VMA in every respect: what the program splits, grows or gives another protection
// merges again as it would have merged.
//
// One kind goes another way: two neighbours that the kernel would merge, but had kept apart (the
// one of them was there before a fork, or was moved). The second is filled elsewhere and moved into
// place, which keeps them apart.
#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_maps.h"
#include "kernel/vma_merging.h"
#include "restore/restorer.h"
#include "restore/vma_rules.h"

namespace telefork::restore {
namespace {

using image::schema::Vma;
using kernel::VmFlag;
using tracee::Result;
using tracee::SyscallProgram;

constexpr std::size_t kMaxLocks = 1000;  // of one program

kernel::MergeTraits traits_of(Vma::Reader vma) {
  return {vma.getStart(), vma.getEnd(), vma.getFlags(), static_cast<int>(vma.getProtection()),
          vma.getKind() == Vma::Kind::ANONYMOUS};
}

bool would_merge(Vma::Reader left, Vma::Reader right) {
  return kernel::would_merge(traits_of(left), traits_of(right));
}

std::string describe_mapping(Vma::Reader vma, const char* what) {
  const unsigned shift = huge_shift(vma);
  return fmt::format("mapping {} at {}", shift != 0 ? huge_pages_name(shift) : what,
                     place_name(vma));
}

bool has_guard_pages() {
  MappedRegion page(kPageSize);
  return ::madvise(page.data(), kPageSize, kernel::kMadvGuardInstall) == 0;
}

}  // namespace

void Restorer::map_memory() {
  SyscallProgram program;
  for (std::size_t i = 0; i < mappings_.size(); ++i) {
    Mapping& mapping = mappings_[i];
    Vma::Reader vma = mapping.vma();
    if (is_kernels_own(vma)) continue;
    if (vma.hasStaged()) {
      if (i > 0 && would_merge(mappings_[i - 1].vma(), vma)) {
        throw Error(Code::kCorrupt, "pages came in rounds for memory that is to be kept apart");
      }
      map_staged(mapping, program);
    } else if (vma.getKind() == Vma::Kind::SHARED_ANONYMOUS) {
      map_shared(mapping, program);
    } else {
      bool apart =
          i > 0 && would_merge(mappings_[i - 1].vma(), vma) && first_protection(vma) == kWritable;
      map_private(mapping, apart, program);
    }
    run_if_large(program);
  }
  // From one that was there others get it, until all have it.
  if (!parts_->were_there) unmap_wholes(program);
  run_if_large(program, true);
}

void Restorer::unmap_wholes(SyscallProgram& program) {
  for (const auto& [id, shared] : shared_) {
    if (shared.whole) {
      program.call("unmapping shared memory", SYS_munmap, {shared.whole, shared.size});
    }
    if (shared.file >= 0) program.call("closing shared memory", SYS_close, {shared.file});
  }
}

void Restorer::map_private(Mapping& mapping, bool apart, SyscallProgram& program) {
  Vma::Reader vma = mapping.vma();
  mapping.protection = apart ? kWritable : first_protection(vma);
  if (apart) mapping.at = space_.allocate(mapping.size(), mapping.start());
  program.call_expecting(describe_mapping(vma, "memory"),
                         static_cast<std::int64_t>(mapping.at.value()), SYS_mmap,
                         {mapping.at, mapping.size(), mapping.protection,
                          map_flags(vma) | MAP_FIXED_NOREPLACE, mapping.file, vma.getOffset()});
  // A page that was there once is what keeps it apart (an anon_vma, and pgoff of the old place).
  if (apart) {
    program.call("populating memory", SYS_madvise,
                 {mapping.at, kPageSize, kernel::kMadvPopulateWrite});
  }
}

// Of one object that is mapped more than once, or in part, the whole is mapped first, and each
// mapping is a part of that.
void Restorer::map_shared(Mapping& mapping, SyscallProgram& program) {
  Vma::Reader vma = mapping.vma();
  mapping.protection = kWritable;
  if (vma.hasSegment()) return attach_segment(mapping, 0, program);
  SharedMemory& shared = shared_.at(vma.getSharedId());
  const std::string name = describe_mapping(vma, "shared memory");
  if (shared.users == 1 && vma.getOffset() == 0 && !shared.inherited) {
    program.call_expecting(
        name, static_cast<std::int64_t>(vma.getStart()), SYS_mmap,
        {mapping.at, mapping.size(), kWritable, map_flags(vma) | MAP_FIXED_NOREPLACE, -1, 0});
    return;
  }
  if (!shared.whole && shared.file < 0) {
    shared.whole = room_for(shared);
    program.call_expecting(
        name, static_cast<std::int64_t>(shared.whole.value()), SYS_mmap,
        {shared.whole, shared.size, kWritable, map_flags(vma) | MAP_FIXED_NOREPLACE, -1, 0});
  }
  map_part(mapping, shared, program);
}

// A copy: mremap(2) from a size of 0. Huge pages cannot be had so (mm/mremap.c): of them the part
// itself goes there, since nobody has one twice.
void Restorer::map_part(const Mapping& mapping, const SharedMemory& shared,
                        SyscallProgram& program) {
  const Vma::Reader vma = mapping.vma();
  const std::string name = describe_mapping(vma, "shared memory");
  const auto expected = static_cast<std::int64_t>(vma.getStart());
  if (shared.file >= 0) {
    const int flags = MAP_SHARED | MAP_FIXED_NOREPLACE | (map_flags(vma) & MAP_NORESERVE);
    program.call_expecting(
        name, expected, SYS_mmap,
        {mapping.at, mapping.size(), kWritable, flags, shared.file, vma.getOffset()});
    return;
  }
  const std::uint64_t old_size = shared.huge_shift != 0 ? mapping.size() : 0;
  program.call_expecting(name, expected, SYS_mremap,
                         {shared.whole + vma.getOffset(), old_size, mapping.size(),
                          MREMAP_MAYMOVE | MREMAP_FIXED, mapping.at});
}

// To be filled it is writable.
void Restorer::attach_segment(Mapping& mapping, int flags, SyscallProgram& program) {
  const int id = parts_->segments.get(mapping.vma().getSegment(), huge_shift(mapping.vma()));
  const auto expected = static_cast<std::int64_t>(mapping.start().value());
  program.call_expecting("attaching memory at " + place_name(mapping.vma()), expected, SYS_shmat,
                         {id, mapping.start(), flags});
}

// All pages are in.
void Restorer::settle_memory(SyscallProgram& program) {
  huge_->add_end(program);
  if (parts_->were_there) unmap_wholes(program);
  for (Mapping& mapping : mappings_) {
    Vma::Reader vma = mapping.vma();
    if (is_kernels_own(vma)) continue;
    if (mapping.at != mapping.start()) {
      if (!mapping.has_first_page) {
        program.call("emptying memory", SYS_madvise, {mapping.at, kPageSize, MADV_DONTNEED});
      }
      program.call_expecting("moving memory to " + place_name(vma),
                             static_cast<std::int64_t>(vma.getStart()), SYS_mremap,
                             {mapping.at, mapping.size(), mapping.size(),
                              MREMAP_MAYMOVE | MREMAP_FIXED, mapping.start()});
      mapping.at = mapping.start();
    }
    // What was attached to be read only cannot be made writable by mprotect(2) either.
    if (vma.hasSegment() && !has_flag(vma, VmFlag::kMayWrite)) {
      attach_segment(mapping, SHM_REMAP | SHM_RDONLY, program);
      mapping.protection = PROT_READ;
    }
    if (mapping.protection != static_cast<int>(vma.getProtection())) {
      program.call("protecting memory at " + place_name(vma), SYS_mprotect,
                   {mapping.start(), mapping.size(), vma.getProtection()});
    }
    add_advice(vma, 0, {mapping.start(), mapping.size()}, program);
    for (image::schema::PageRun::Reader run : vma.getGuardRuns()) {
      program.call("installing guard pages at " + place_name(vma), SYS_madvise,
                   {run.getStart(), run.getPages() * kPageSize, kernel::kMadvGuardInstall});
    }
    run_if_large(program);
  }
}

// The guest's own limit counts, not the keeper's.
void Restorer::lock_memory() {
  for (image::schema::Limit::Reader limit : process().getLimits()) {
    if (limit.getResource() != RLIMIT_MEMLOCK) continue;
    rlimit wanted{limit.getSoft(), limit.getHard()};
    static_cast<void>(::prlimit(blank_->pid(), RLIMIT_MEMLOCK, &wanted, nullptr));
  }
  std::vector<const Mapping*> locked;
  for (const Mapping& mapping : mappings_) {
    if (has_flag(mapping.vma(), VmFlag::kLocked)) locked.push_back(&mapping);
  }
  for (std::size_t first = 0; first < locked.size(); first += kMaxLocks) {
    std::size_t count = std::min(kMaxLocks, locked.size() - first);
    lock_these(std::span(locked).subspan(first, count));
  }
}

void Restorer::lock_these(std::span<const Mapping* const> mappings) {
  SyscallProgram program;
  std::vector<Result> results;
  for (const Mapping* mapping : mappings) {
    auto lock = [&](int flags) {
      return program.call_any("locking memory", SYS_mlock2,
                              {mapping->start(), mapping->size(), flags});
    };
    // Guard pages and memory without access cannot be made present, which mlock2 says after it has
    // locked them, in the words in which it says that it may not lock so much.
    bool stays_absent =
        mapping->vma().getGuardRuns().size() > 0 || mapping->vma().getProtection() == PROT_NONE;
    bool on_fault = has_flag(mapping->vma(), VmFlag::kLockOnFault);
    results.push_back(lock(on_fault || stays_absent ? MLOCK_ONFAULT : 0));
    if (stays_absent && !on_fault) lock(0);
  }
  tracee::ProgramRun run = blank_->stub().run(program);
  for (std::size_t i = 0; i < mappings.size(); ++i) {
    if (run.result(results[i]) == 0) continue;
    warn(fmt::format("its memory at {} is not locked: this user may lock less (limit memlock)",
                     place_name(mappings[i]->vma())));
  }
}

// Nothing can change it any more.
void Restorer::seal_memory() {
  SyscallProgram program;
  for (const Mapping& mapping : mappings_) {
    if (is_kernels_own(mapping.vma()) || !has_flag(mapping.vma(), VmFlag::kSealed)) continue;
    program.call("sealing memory at " + place_name(mapping.vma()), kernel::kNrMseal,
                 {mapping.start(), mapping.size(), 0});
    run_if_large(program);
  }
  run_if_large(program, true);
}

// Of what is mapped later; what there is stays as it is. The stub's pages would be locked too.
void Restorer::lock_the_future() {
  if (process().getLockFuture() == 0) return;
  SyscallProgram program;
  Result result = program.call_any("locking memory to come", SYS_mlockall,
                                   {process().getLockFuture() & (MCL_FUTURE | MCL_ONFAULT)});
  const std::int64_t error = -blank_->stub().run(program).result(result);
  if (error == 0) return;
  warn(fmt::format("what it maps from here on is not locked (mlockall(2), MCL_FUTURE): {}",
                   std::strerror(static_cast<int>(error))));
}

void Restorer::check_guard_pages() {
  auto guarded = [](const Mapping& mapping) { return mapping.vma().getGuardRuns().size() > 0; };
  if (std::none_of(mappings_.begin(), mappings_.end(), guarded) || has_guard_pages()) return;
  throw Error(Code::kUnsupported,
              "this kernel lacks guard pages (MADV_GUARD_INSTALL, Linux 6.13), which the process "
              "uses");
}

}  // namespace telefork::restore
