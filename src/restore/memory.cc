// Pages into the guest's memory, which mappings.cc has mapped.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_maps.h"
#include "restore/restorer.h"
#include "tracee/memory.h"

namespace telefork::restore {
namespace {

using image::schema::Pages;
using image::schema::Vma;
using kernel::VmFlag;
using tracee::SyscallProgram;

constexpr std::size_t kBuffer = 1024 * 1024;
constexpr std::size_t kMaxVectors = 1024;  // IOV_MAX
// What is populated and received at a time. A socket's buffer should hold as much: then the sender
// goes on while the memory is made.
constexpr std::uint64_t kChunk = 2 * 1024 * 1024;
static_assert(kChunk % kHugePageSize == 0);

}  // namespace

Restorer::Mapping& Restorer::mapping_of(RemotePtr address) {
  auto after = std::upper_bound(
      mappings_.begin(), mappings_.end(), address,
      [](RemotePtr wanted, const Mapping& mapping) { return wanted < mapping.start(); });
  TELEFORK_ASSERT(after != mappings_.begin());  // image/record_rules.h
  return *std::prev(after);
}

void Restorer::take_pages(const image::Record& record, image::RecordSource& source) {
  with_context("making the guest's process", [&] { prepare(); });
  auto pages = record.get<Pages>();
  with_context("receiving memory", [&] {
    SyscallProgram program;
    std::vector<Piece> pieces = place(pages, program);
    if (bulk_in_blank_ >= 0) {
      // A chunk's memory is made while the one before it is on its way.
      for (std::span<const Piece> rest(pieces); !rest.empty();) {
        std::span<const Piece> chunk = rest.first(count_in_chunk(rest));
        populate(chunk, false, program);
        receive_in_blank(chunk, program);
        rest = rest.subspan(chunk.size());
      }
      run_if_large(program, true);
      source.payload_taken_elsewhere();
    } else {
      populate(pieces, true, program);
      run_if_large(program, true);
      write_from_here(pieces, source);
    }
  });
}

// Where the runs lie now, cut where huge pages begin so that no piece is larger than a chunk.
std::vector<Restorer::Piece> Restorer::place(Pages::Reader pages, SyscallProgram& program) {
  std::vector<Piece> pieces;
  for (image::schema::PageRun::Reader run : pages.getRuns()) {
    RemotePtr start(run.getStart());
    Mapping& mapping = mapping_of(start);
    open_for_pages(mapping, program);
    if (start == mapping.start()) mapping.has_first_page = true;
    Vma::Reader vma = mapping.vma();
    bool huge_allowed =
        !has_flag(vma, VmFlag::kNoHugePage) &&
        (vma.getKind() == Vma::Kind::ANONYMOUS || vma.getKind() == Vma::Kind::STACK);
    RemotePtr at = mapping.at + (start - mapping.start());
    RemotePtr end = at + run.getPages() * kPageSize;
    while (at < end) {
      RemotePtr cut(round_down((at + kChunk).value(), kHugePageSize));
      std::uint64_t size = std::min(end, cut) - at;
      pieces.push_back({at, size, huge_allowed});
      at = at + size;
    }
  }
  return pieces;
}

std::size_t Restorer::count_in_chunk(std::span<const Piece> pieces) {
  std::size_t count = 0;
  for (std::uint64_t bytes = 0; count < pieces.size(); ++count) {
    bytes += pieces[count].size;
    if (count > 0 && bytes > kChunk) break;
  }
  return std::min<std::size_t>(count, kMaxVectors);
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

// Memory is made present before the guest receives into it: the kernel fills a page that is there
// ten times as fast as one that it has to make on a fault. process_vm_writev makes pages without a
// fault, so that only huge ones are worth a step then. Whole huge pages are collapsed from a first
// small page, which needs no MADV_HUGEPAGE: that flag would stay with the VMA.
void Restorer::populate(std::span<const Piece> pieces, bool only_huge, SyscallProgram& program) {
  for (const Piece& piece : pieces) {
    RemotePtr huge(round_up(piece.at.value(), kHugePageSize));
    std::uint64_t end = round_down((piece.at + piece.size).value(), kHugePageSize);
    if (piece.huge_allowed && huge.value() < end) {
      for (RemotePtr at = huge; at.value() < end; at = at + kHugePageSize) {
        program.call("populating memory", SYS_madvise, {at, kPageSize, kernel::kMadvPopulateWrite});
      }
      // Where it cannot be had, small pages will do.
      program.call_any("making huge pages", SYS_madvise,
                       {huge, end - huge.value(), kernel::kMadvCollapse});
    }
    if (only_huge) continue;
    program.call("populating memory", SYS_madvise,
                 {piece.at, piece.size, kernel::kMadvPopulateWrite});
    run_if_large(program);
  }
}

void Restorer::receive_in_blank(std::span<const Piece> pieces, SyscallProgram& program) {
  std::vector<iovec> vectors(pieces.size());
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    vectors[i] = {reinterpret_cast<void*>(pieces[i].at.value()), pieces[i].size};
    bytes += pieces[i].size;
  }
  tracee::Data vector_data = program.bytes(std::as_bytes(std::span(vectors)));
  msghdr message{};
  message.msg_iovlen = vectors.size();
  tracee::Data message_data = program.object(message);
  program.point(message_data + offsetof(msghdr, msg_iov), vector_data);
  program.call_expecting("receiving pages", static_cast<std::int64_t>(bytes), SYS_recvmsg,
                         {bulk_in_blank_, message_data, MSG_WAITALL});
  run_if_large(program);
}

// The payload in pieces of a buffer, each written by one call to all runs that it covers.
void Restorer::write_from_here(std::span<const Piece> pieces, image::RecordSource& source) {
  if (!buffer_) buffer_ = std::make_unique<MappedRegion>(kBuffer);
  std::size_t piece = 0;
  std::uint64_t done = 0;  // of that piece
  while (piece < pieces.size()) {
    std::vector<iovec> vectors;
    std::size_t filled = 0;
    while (piece < pieces.size() && filled < kBuffer && vectors.size() < kMaxVectors) {
      const Piece& to = pieces[piece];
      std::uint64_t part = std::min<std::uint64_t>(to.size - done, kBuffer - filled);
      vectors.push_back({reinterpret_cast<void*>((to.at + done).value()), part});
      filled += part;
      done += part;
      if (done < to.size) break;
      ++piece;
      done = 0;
    }
    std::span<std::byte> bytes = buffer_->bytes().first(filled);
    source.read_payload(bytes);
    tracee::write_scattered(blank_->pid(), vectors, bytes);
  }
}

}  // namespace telefork::restore
