// Pages into staging, and staging into place.
#include <algorithm>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_maps.h"
#include "restore/restorer.h"
#include "restore/vdso.h"
#include "tracee/memory.h"

namespace telefork::restore {
namespace {

using image::schema::Pages;
using image::schema::Vma;
using kernel::VmFlag;
using tracee::Argument;
using tracee::SyscallProgram;

constexpr std::size_t kPiece = 1024 * 1024;
constexpr unsigned kMaxVectors = 1024;  // IOV_MAX

bool has(Vma::Reader vma, VmFlag flag) {
  return (vma.getFlags() & static_cast<std::uint64_t>(flag)) != 0;
}

int map_flags(Vma::Reader vma) {
  int flags = 0;
  switch (vma.getKind()) {
    case Vma::Kind::PRIVATE_FILE:
      flags = MAP_PRIVATE;
      break;
    case Vma::Kind::SHARED_FILE:
      flags = MAP_SHARED;
      break;
    case Vma::Kind::SHARED_ANONYMOUS:
      flags = MAP_SHARED | MAP_ANONYMOUS;
      break;
    default:
      flags = MAP_PRIVATE | MAP_ANONYMOUS;
  }
  if (has(vma, VmFlag::kNoReserve)) flags |= MAP_NORESERVE;
  if (has(vma, VmFlag::kGrowsDown)) flags |= MAP_GROWSDOWN;
  return flags;
}

void add_advice(Vma::Reader vma, RemotePtr start, std::uint64_t size, SyscallProgram& program) {
  struct Rule {
    VmFlag flag;
    int advice;
    const char* name;
  };
  static constexpr Rule kRules[] = {
      {VmFlag::kDontCopy, MADV_DONTFORK, "MADV_DONTFORK"},
      {VmFlag::kDontDump, MADV_DONTDUMP, "MADV_DONTDUMP"},
      {VmFlag::kWipeOnFork, MADV_WIPEONFORK, "MADV_WIPEONFORK"},
      {VmFlag::kHugePage, MADV_HUGEPAGE, "MADV_HUGEPAGE"},
      {VmFlag::kNoHugePage, MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE"},
      {VmFlag::kMergeable, MADV_MERGEABLE, "MADV_MERGEABLE"},
      {VmFlag::kSequentialRead, MADV_SEQUENTIAL, "MADV_SEQUENTIAL"},
      {VmFlag::kRandomRead, MADV_RANDOM, "MADV_RANDOM"},
  };
  for (const Rule& rule : kRules) {
    if (!has(vma, rule.flag)) continue;
    // A kernel without huge pages or KSM has nothing to advise.
    program.call_any(rule.name, SYS_madvise, {start, size, rule.advice});
  }
  if (has(vma, VmFlag::kLocked)) {
    program.call(fmt::format("locking memory at {:#x}", start.value()), SYS_mlock2,
                 {start, size, has(vma, VmFlag::kLockOnFault) ? MLOCK_ONFAULT : 0});
  }
}

}  // namespace

Restorer::Mapping& Restorer::mapping_at(RemotePtr start) {
  auto found = std::lower_bound(
      mappings_.begin(), mappings_.end(), start,
      [](const Mapping& mapping, RemotePtr address) { return mapping.start() < address; });
  TELEFORK_ASSERT(found != mappings_.end() && found->start() == start);  // image/record_rules.h
  return *found;
}

void Restorer::take_pages(const image::Record& record, image::RecordSource& source) {
  with_context("making the guest's process", [&] { prepare(); });
  auto pages = record.get<Pages>();
  Mapping& mapping = mapping_at(RemotePtr(pages.getVmaStart()));
  with_context("receiving memory", [&] {
    stage(mapping);
    populate(mapping, pages);
    if (bulk_in_blank_ >= 0) {
      receive_in_blank(mapping, pages);
      source.payload_taken_elsewhere();
    } else {
      write_from_here(mapping, pages, source);
    }
  });
}

void Restorer::stage(Mapping& mapping) {
  if (mapping.staging) return;
  Vma::Reader vma = mapping.vma();
  if (vma.getKind() == Vma::Kind::SHARED_ANONYMOUS) {
    stage_shared(mapping);
    return;
  }
  if (vma.getKind() == Vma::Kind::SHARED_FILE || vma.getKind() == Vma::Kind::VDSO ||
      vma.getKind() == Vma::Kind::VVAR || vma.getKind() == Vma::Kind::VSYSCALL) {
    throw Error(Code::kCorrupt, "the image has pages for a mapping that cannot have any");
  }
  RemotePtr at = space_.allocate(mapping.size(), mapping.start());
  SyscallProgram program;
  program.call_expecting(fmt::format("mapping {} bytes for memory on its way to {:#x}",
                                     mapping.size(), mapping.start().value()),
                         static_cast<std::int64_t>(at.value()), SYS_mmap,
                         {at, mapping.size(), PROT_READ | PROT_WRITE,
                          map_flags(vma) | MAP_FIXED_NOREPLACE, mapping.file, vma.getOffset()});
  blank_->stub().run(program);
  mapping.staging = at;
}

// The object as a whole, from which each mapping of it is made.
void Restorer::stage_shared(Mapping& mapping) {
  SharedMemory& shared = shared_.at(mapping.vma().getSharedId());
  if (!shared.staging) {
    std::uint64_t size = shared.last - shared.first;
    shared.staging = space_.allocate(size, RemotePtr());
    SyscallProgram program;
    program.call("mapping shared memory", SYS_mmap,
                 {shared.staging, size, PROT_READ | PROT_WRITE,
                  map_flags(mapping.vma()) | MAP_FIXED_NOREPLACE, -1, 0});
    blank_->stub().run(program);
  }
  mapping.staging = shared.staging + (mapping.vma().getOffset() - shared.first);
}

RemotePtr Restorer::staged_address(const Mapping& mapping, RemotePtr address) const {
  return mapping.staging + (address - mapping.start());
}

// Memory is made present before bytes arrive: the kernel fills a page that is there ten times as
// fast as one that it has to make first. Whole huge pages are collapsed from a first small page,
// which needs no MADV_HUGEPAGE: that flag would stay with the VMA.
void Restorer::populate(Mapping& mapping, Pages::Reader pages) {
  bool huge_allowed = !has(mapping.vma(), VmFlag::kNoHugePage) &&
                      mapping.vma().getKind() != Vma::Kind::PRIVATE_FILE &&
                      mapping.vma().getKind() != Vma::Kind::SHARED_ANONYMOUS;
  SyscallProgram program;
  for (image::schema::PageRun::Reader run : pages.getRuns()) {
    RemotePtr start = staged_address(mapping, RemotePtr(run.getStart()));
    std::uint64_t size = run.getPages() * kPageSize;
    RemotePtr huge(round_up(start.value(), kHugePageSize));
    std::uint64_t end = round_down((start + size).value(), kHugePageSize);
    if (huge_allowed && huge.value() < end) {
      for (RemotePtr at = huge; at.value() < end; at = at + kHugePageSize) {
        program.call("populating memory", SYS_madvise, {at, kPageSize, kernel::kMadvPopulateWrite});
      }
      // Where it cannot be had, small pages will do.
      program.call_any("making huge pages", SYS_madvise,
                       {huge, end - huge.value(), kernel::kMadvCollapse});
    }
    program.call("populating memory", SYS_madvise, {start, size, kernel::kMadvPopulateWrite});
    run_if_large(program);
  }
  run_if_large(program, true);
}

void Restorer::receive_in_blank(Mapping& mapping, Pages::Reader pages) {
  SyscallProgram program;
  auto runs = pages.getRuns();
  for (unsigned first = 0; first < runs.size(); first += kMaxVectors) {
    unsigned count = std::min(kMaxVectors, runs.size() - first);
    std::vector<iovec> vectors(count);
    std::uint64_t bytes = 0;
    for (unsigned i = 0; i < count; ++i) {
      RemotePtr to = staged_address(mapping, RemotePtr(runs[first + i].getStart()));
      vectors[i] = {reinterpret_cast<void*>(to.value()), runs[first + i].getPages() * kPageSize};
      bytes += vectors[i].iov_len;
    }
    tracee::Data vector_data = program.bytes(std::as_bytes(std::span(vectors)));
    msghdr message{};
    message.msg_iovlen = count;
    tracee::Data message_data = program.object(message);
    program.point(message_data + offsetof(msghdr, msg_iov), vector_data);
    program.call_expecting("receiving pages", static_cast<std::int64_t>(bytes), SYS_recvmsg,
                           {bulk_in_blank_, message_data, MSG_WAITALL});
    run_if_large(program);
  }
  run_if_large(program, true);
}

void Restorer::write_from_here(Mapping& mapping, Pages::Reader pages, image::RecordSource& source) {
  if (!buffer_) buffer_ = std::make_unique<MappedRegion>(kPiece);
  for (image::schema::PageRun::Reader run : pages.getRuns()) {
    RemotePtr to = staged_address(mapping, RemotePtr(run.getStart()));
    std::uint64_t left = run.getPages() * kPageSize;
    while (left > 0) {
      std::span<std::byte> piece = buffer_->bytes().first(std::min<std::uint64_t>(left, kPiece));
      source.read_payload(piece);
      tracee::write_memory(blank_->pid(), to, piece);
      to = to + piece.size();
      left -= piece.size();
    }
  }
}

// What the blank process was born with, the stub and the parked vDSO aside.
void Restorer::clear_blank() {
  SyscallProgram program;
  for (const kernel::Vma& vma : blank_maps_) {
    if (vma.is_vdso_or_vvar() || vma.is_vsyscall()) continue;
    program.call("unmapping the blank process", SYS_munmap, {vma.start, vma.size()});
  }
  blank_->stub().run(program);
}

void Restorer::place(const Mapping& mapping, SyscallProgram& program) {
  Vma::Reader vma = mapping.vma();
  std::string where = fmt::format("{:#x}-{:#x}", vma.getStart(), vma.getEnd());
  auto expected = static_cast<std::int64_t>(vma.getStart());
  if (mapping.staging) {
    program.call_expecting("putting memory in place at " + where, expected, SYS_mremap,
                           {mapping.staging, mapping.size(), mapping.size(),
                            MREMAP_MAYMOVE | MREMAP_FIXED, mapping.start()});
    if (vma.getProtection() != (PROT_READ | PROT_WRITE)) {
      program.call("protecting memory at " + where, SYS_mprotect,
                   {mapping.start(), mapping.size(), vma.getProtection()});
    }
  } else {
    program.call_expecting("mapping memory at " + where, expected, SYS_mmap,
                           {mapping.start(), mapping.size(), vma.getProtection(),
                            map_flags(vma) | MAP_FIXED_NOREPLACE, mapping.file, vma.getOffset()});
  }
  add_advice(vma, mapping.start(), mapping.size(), program);
}

// A second mapping of the same object: mremap(2) from a size of 0.
void Restorer::place_shared(const Mapping& mapping, SyscallProgram& program) {
  Vma::Reader vma = mapping.vma();
  program.call_expecting(
      "putting shared memory in place", static_cast<std::int64_t>(vma.getStart()), SYS_mremap,
      {mapping.staging, 0, mapping.size(), MREMAP_MAYMOVE | MREMAP_FIXED, mapping.start()});
  program.call("protecting shared memory", SYS_mprotect,
               {mapping.start(), mapping.size(), vma.getProtection()});
  add_advice(vma, mapping.start(), mapping.size(), program);
}

void Restorer::drop_shared_staging(SyscallProgram& program) {
  for (const auto& [id, shared] : shared_) {
    if (!shared.staging) continue;
    program.call("unmapping staging", SYS_munmap, {shared.staging, shared.last - shared.first});
  }
}

void Restorer::place_memory() {
  for (Mapping& mapping : mappings_) {
    if (mapping.vma().getKind() == Vma::Kind::SHARED_ANONYMOUS) stage(mapping);
  }
  clear_blank();
  SyscallProgram program;
  for (const Mapping& mapping : mappings_) {
    switch (mapping.vma().getKind()) {
      case Vma::Kind::VDSO:
      case Vma::Kind::VVAR:
      case Vma::Kind::VSYSCALL:
        break;
      case Vma::Kind::SHARED_ANONYMOUS:
        place_shared(mapping, program);
        break;
      default:
        place(mapping, program);
    }
    run_if_large(program);
  }
  drop_shared_staging(program);
  run_if_large(program, true);
  place_vdso();
}

void Restorer::place_vdso() {
  auto vdso = process().getVdso();
  if (vdso.getStart() == 0 || vdso_parts_.empty()) return;
  auto code = vdso.getCode();
  std::span<const std::byte> old_code(reinterpret_cast<const std::byte*>(code.begin()),
                                      code.size());
  SyscallProgram program;
  const kernel::Vma& mine = vdso_parts_.back();
  // The same build of the kernel: its pages go where the guest's were, all of them together.
  bool same = std::ranges::equal(old_code, vdso_code_) &&
              vdso.getStart() - vdso.getVvarStart() == mine.start - vdso_parts_.front().start;
  if (same) {
    for (const kernel::Vma& part : vdso_parts_) {
      RemotePtr to = RemotePtr(vdso.getVvarStart()) + (part.start - vdso_parts_.front().start);
      program.call_expecting(
          "placing " + part.path, static_cast<std::int64_t>(to.value()), SYS_mremap,
          {part.start, part.size(), part.size(), MREMAP_MAYMOVE | MREMAP_FIXED, to});
    }
    blank_->stub().run(program);
    return;
  }
  RemotePtr start(vdso.getStart());
  std::vector<std::byte> redirected = redirect_vdso(old_code, start, vdso_code_, mine.start);
  program.call("mapping the old vDSO", SYS_mmap,
               {start, redirected.size(), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0});
  blank_->stub().run(program);
  tracee::write_memory(blank_->pid(), start, redirected);
  program = SyscallProgram();
  program.call("making the old vDSO executable", SYS_mprotect,
               {start, redirected.size(), PROT_READ | PROT_EXEC});
  blank_->stub().run(program);
}

}  // namespace telefork::restore
