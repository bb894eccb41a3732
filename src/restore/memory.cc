// Pages into the guest's memory, which mappings.cc has mapped.
#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_maps.h"
#include "restore/restorer.h"

namespace telefork::restore {
namespace {

using image::schema::Pages;
using image::schema::Vma;
using tracee::SyscallProgram;

constexpr std::size_t kBuffer = 256 * 1024;

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
    std::vector<PagePiece> pieces = place(pages, program);
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
  });
}

// Where the runs lie now, cut where huge pages begin so that no piece is larger than a chunk.
std::vector<PagePiece> Restorer::place(Pages::Reader pages, SyscallProgram& program) {
  std::vector<PagePiece> pieces;
  for (image::schema::PageRun::Reader run : pages.getRuns()) {
    RemotePtr start(run.getStart());
    Mapping& mapping = mapping_of(start);
    open_for_pages(mapping, program);
    if (start == mapping.start()) mapping.has_first_page = true;
    Vma::Reader vma = mapping.vma();
    bool huge_allowed = may_have_huge_pages(vma, process().getThpDisable());
    RemotePtr at = mapping.at + (start - mapping.start());
    RemotePtr end = at + run.getPages() * kPageSize;
    while (at < end) {
      RemotePtr cut(round_down((at + kReceptionChunk).value(), kHugePageSize));
      std::uint64_t size = std::min(end, cut) - at;
      pieces.push_back({at, size, huge_allowed});
      if (pieces.back().has_huge()) get_ready_for_huge_pages(mapping, program);
      at = at + size;
    }
  }
  return pieces;
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

}  // namespace telefork::restore
