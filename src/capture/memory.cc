// The memory map, and the pages that must travel.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/mapped_region.h"
#include "capture/capture.h"
#include "capture/zero_page.h"
#include "tracee/memory.h"

namespace telefork::capture {
namespace {

using image::schema::Vma;
using kernel::PageRun;

// Read at a time: enough for process_vm_readv's best rate, and what a Pages record holds at most.
constexpr std::uint64_t kPiece = 1024 * 1024;

bool has_pages_of_its_own(const Mapping& mapping) {
  switch (mapping.kind) {
    case Vma::Kind::ANONYMOUS:
    case Vma::Kind::STACK:
    case Vma::Kind::PRIVATE_FILE:
    case Vma::Kind::SHARED_ANONYMOUS:
      return true;
    default:
      return false;
  }
}

// Runs of the pages in [start, start + bytes.size()) that are not all zero.
std::vector<PageRun> non_zero_runs(RemotePtr start, std::span<const std::byte> bytes) {
  std::vector<PageRun> runs;
  for (std::size_t at = 0; at < bytes.size(); at += kPageSize) {
    if (!is_zero_page(bytes.subspan(at, kPageSize))) kernel::append_run(runs, {start + at, 1});
  }
  return runs;
}

class PageWriter {
 public:
  PageWriter(pid_t pid, const CaptureSettings& settings, image::RecordSink& sink)
      : pid_(pid), settings_(settings), sink_(sink), buffer_(kPiece) {}

  // Pages that the file behind a private mapping would show instead are sent even when zero.
  void write(const Mapping& mapping, const std::vector<PageRun>& runs) {
    bool keep_zeros = mapping.kind == Vma::Kind::PRIVATE_FILE;
    for (const PageRun& run : runs) {
      for (RemotePtr at = run.start; at < run.end();) {
        std::uint64_t room = buffer_.size() - used_;
        std::uint64_t size = std::min<std::uint64_t>(run.end() - at, room);
        std::span<std::byte> bytes = buffer_.bytes().subspan(used_, size);
        tracee::read_memory(pid_, at, bytes);
        totals_.pages_read += size / kPageSize;
        take(at, bytes, keep_zeros);
        at = at + size;
        if (used_ == buffer_.size()) flush(mapping.vma.start);
      }
    }
    flush(mapping.vma.start);
  }

  const MemoryTotals& totals() const { return totals_; }

 private:
  // Moves what travels of `bytes`, which lie at the end of what is used, down to it.
  void take(RemotePtr start, std::span<std::byte> bytes, bool keep_zeros) {
    std::vector<PageRun> kept = keep_zeros ? std::vector<PageRun>{{start, bytes.size() / kPageSize}}
                                           : non_zero_runs(start, bytes);
    for (const PageRun& run : kept) {
      std::size_t size = run.pages * kPageSize;
      std::byte* to = buffer_.data() + used_;
      const std::byte* from = bytes.data() + (run.start - start);
      if (to != from) std::memmove(to, from, size);
      used_ += size;
      kernel::append_run(runs_, run);
    }
  }

  void flush(RemotePtr vma_start) {
    if (used_ == 0) return;
    ::capnp::MallocMessageBuilder message;
    auto pages = message.initRoot<image::schema::Pages>();
    pages.setVmaStart(vma_start.value());
    auto list = pages.initRuns(static_cast<unsigned>(runs_.size()));
    for (unsigned i = 0; i < list.size(); ++i) {
      list[i].setStart(runs_[i].start.value());
      list[i].setPages(runs_[i].pages);
    }
    sink_.begin_payload_record(image::RecordType::kPages, message, used_);
    sink_.payload(buffer_.bytes().first(used_));
    totals_.pages_sent += used_ / kPageSize;
    used_ = 0;
    runs_.clear();
    if (settings_.on_progress) settings_.on_progress(totals_.pages_read * kPageSize);
  }

  pid_t pid_;
  const CaptureSettings& settings_;
  image::RecordSink& sink_;
  MappedRegion buffer_;
  std::size_t used_ = 0;
  std::vector<PageRun> runs_;
  MemoryTotals totals_;
};

}  // namespace

void Capture::write_mappings(image::RecordSink& sink) {
  for (const Mapping& mapping : survey_.mappings) {
    const kernel::Vma& vma = mapping.vma;
    ::capnp::MallocMessageBuilder message;
    auto record = message.initRoot<Vma>();
    record.setStart(vma.start.value());
    record.setEnd(vma.end.value());
    record.setProtection(static_cast<std::uint32_t>(vma.protection()));
    record.setKind(mapping.kind);
    record.setOffset(vma.offset);
    record.setFlags(vma.flags);
    record.setSharedId(mapping.shared_id);
    if (mapping.file) survey_.files.fill(*mapping.file, record.initFile());
    sink.write(image::RecordType::kVma, message);
  }
}

MemoryTotals Capture::write_pages(image::RecordSink& sink) {
  kernel::PageMap map(survey_.pid, settings_.pagemap);
  PageWriter writer(survey_.pid, settings_, sink);
  for (const Mapping& mapping : survey_.mappings) {
    if (!has_pages_of_its_own(mapping)) continue;
    bool shared = mapping.kind == Vma::Kind::SHARED_ANONYMOUS;
    writer.write(mapping, shared ? kernel::shared_pages(survey_.pid, mapping.vma)
                                 : map.private_pages(mapping.vma.start, mapping.vma.end));
  }
  return writer.totals();
}

}  // namespace telefork::capture
