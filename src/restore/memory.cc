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

namespace telefork::restore {
namespace {

using image::schema::Pages;
using image::schema::Vma;
using kernel::VmFlag;
using tracee::SyscallProgram;

constexpr std::size_t kPiece = 1024 * 1024;
constexpr unsigned kMaxVectors = 1024;  // IOV_MAX

// Fills all of `vectors`, which are addresses in the process, from `bytes`.
void write_scattered(pid_t pid, std::span<iovec> vectors, std::span<const std::byte> bytes) {
  while (!vectors.empty()) {
    iovec local = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    ssize_t count = ::process_vm_writev(pid, &local, 1, vectors.data(), vectors.size(), 0);
    if (count <= 0) {
      throw_errno(fmt::format("writing memory of process {} at {}", pid, vectors[0].iov_base),
                  count == 0 ? EFAULT : errno);
    }
    auto done = static_cast<std::size_t>(count);
    bytes = bytes.subspan(done);
    while (!vectors.empty() && done >= vectors[0].iov_len) {
      done -= vectors[0].iov_len;
      vectors = vectors.subspan(1);
    }
    if (done == 0) continue;
    vectors[0].iov_base = static_cast<char*>(vectors[0].iov_base) + done;
    vectors[0].iov_len -= done;
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
    SyscallProgram program;
    open_for_pages(mapping, program);
    if (pages.getRuns().size() > 0 && pages.getRuns()[0].getStart() == mapping.start().value()) {
      mapping.has_first_page = true;
    }
    if (bulk_in_blank_ >= 0) {
      populate(mapping, pages, false, program);
      receive_in_blank(mapping, pages, program);
      run_if_large(program, true);
      source.payload_taken_elsewhere();
    } else {
      populate(mapping, pages, true, program);
      run_if_large(program, true);
      write_from_here(mapping, pages, source);
    }
  });
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
void Restorer::populate(const Mapping& mapping, Pages::Reader pages, bool only_huge,
                        SyscallProgram& program) {
  Vma::Reader vma = mapping.vma();
  bool huge_allowed = !has_flag(vma, VmFlag::kNoHugePage) &&
                      (vma.getKind() == Vma::Kind::ANONYMOUS || vma.getKind() == Vma::Kind::STACK);
  for (image::schema::PageRun::Reader run : pages.getRuns()) {
    RemotePtr start = address_now(mapping, RemotePtr(run.getStart()));
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
    if (only_huge) continue;
    program.call("populating memory", SYS_madvise, {start, size, kernel::kMadvPopulateWrite});
    run_if_large(program);
  }
}

RemotePtr Restorer::address_now(const Mapping& mapping, RemotePtr address) const {
  return mapping.at + (address - mapping.start());
}

void Restorer::receive_in_blank(const Mapping& mapping, Pages::Reader pages,
                                SyscallProgram& program) {
  auto runs = pages.getRuns();
  for (unsigned first = 0; first < runs.size(); first += kMaxVectors) {
    unsigned count = std::min(kMaxVectors, runs.size() - first);
    std::vector<iovec> vectors(count);
    std::uint64_t bytes = 0;
    for (unsigned i = 0; i < count; ++i) {
      RemotePtr to = address_now(mapping, RemotePtr(runs[first + i].getStart()));
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
}

// The payload in pieces of a buffer, each written by one call to all runs that it covers.
void Restorer::write_from_here(const Mapping& mapping, Pages::Reader pages,
                               image::RecordSource& source) {
  if (!buffer_) buffer_ = std::make_unique<MappedRegion>(kPiece);
  auto runs = pages.getRuns();
  unsigned run = 0;
  std::uint64_t done = 0;  // of that run
  while (run < runs.size()) {
    std::vector<iovec> vectors;
    std::size_t filled = 0;
    while (run < runs.size() && filled < kPiece && vectors.size() < kMaxVectors) {
      std::uint64_t size = runs[run].getPages() * kPageSize;
      std::uint64_t part = std::min<std::uint64_t>(size - done, kPiece - filled);
      RemotePtr to = address_now(mapping, RemotePtr(runs[run].getStart())) + done;
      vectors.push_back({reinterpret_cast<void*>(to.value()), part});
      filled += part;
      done += part;
      if (done < size) break;
      ++run;
      done = 0;
    }
    std::span<std::byte> piece = buffer_->bytes().first(filled);
    source.read_payload(piece);
    write_scattered(blank_->pid(), vectors, piece);
  }
}

}  // namespace telefork::restore
