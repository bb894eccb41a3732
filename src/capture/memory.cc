// The memory map, and the pages that must travel.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mapped_region.h"
#include "capture/capture.h"
#include "capture/zero_page.h"
#include "kernel/abi.h"
#include "tracee/memory.h"

namespace telefork::capture {
namespace {

using image::schema::Vma;
using kernel::PageRun;

// What a Pages record holds at most. Large runs are cut where huge pages begin, so that they arrive
// as whole ones.
constexpr std::uint64_t kPiece = 4 * 1024 * 1024;
constexpr std::size_t kMaxVectors = 1024;  // IOV_MAX

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

// The memory of a process, also where it may not read it itself.
class MemoryReader {
 public:
  explicit MemoryReader(pid_t pid) : pid_(pid) {}

  // From now on reads of this mapping.
  void select(const Mapping& mapping, bool guarded) {
    vma_ = &mapping.vma;
    file_.reset();
    // Pages behind guards are seen through the object only.
    bool shared = mapping.kind == Vma::Kind::SHARED_ANONYMOUS;
    if (shared && (guarded || !vma_->read)) {
      file_.reset(::open(kernel::map_files_path(pid_, *vma_).c_str(), O_RDONLY | O_CLOEXEC));
    }
    if (!vma_->read && !file_ && !memory_) memory_ = open_file(kernel::mem_path(pid_), O_RDONLY);
  }

  // All runs, one after another.
  void read(std::span<const PageRun> runs, std::span<std::byte> to) {
    if (vma_->read && !file_) {
      read_readable(runs, to);
      return;
    }
    for (const PageRun& run : runs) {
      std::span<std::byte> piece = to.first(run.pages * kPageSize);
      std::uint64_t at = file_ ? vma_->offset + (run.start - vma_->start) : run.start.value();
      read_at(file_ ? file_ : memory_, at, piece);
      to = to.subspan(piece.size());
    }
  }

 private:
  void read_readable(std::span<const PageRun> runs, std::span<std::byte> to) {
    for (std::size_t first = 0; first < runs.size(); first += kMaxVectors) {
      auto part = runs.subspan(first, std::min(kMaxVectors, runs.size() - first));
      std::vector<iovec> remote;
      std::size_t bytes = 0;
      for (const PageRun& run : part) {
        remote.push_back({reinterpret_cast<void*>(run.start.value()), run.pages * kPageSize});
        bytes += run.pages * kPageSize;
      }
      iovec local = {to.data(), bytes};
      ssize_t count = ::process_vm_readv(pid_, &local, 1, remote.data(), remote.size(), 0);
      if (count != static_cast<ssize_t>(bytes)) read_singly(part, to);
      to = to.subspan(bytes);
    }
  }

  // For the Error, which names what could not be read.
  void read_singly(std::span<const PageRun> runs, std::span<std::byte> to) {
    for (const PageRun& run : runs) {
      tracee::read_memory(pid_, run.start, to.first(run.pages * kPageSize));
      to = to.subspan(run.pages * kPageSize);
    }
  }

  void read_at(const UniqueFd& file, std::uint64_t at, std::span<std::byte> to) {
    while (!to.empty()) {
      ssize_t count = ::pread(file.get(), to.data(), to.size(), static_cast<off_t>(at));
      if (count <= 0) {
        throw_errno(fmt::format("reading memory of process {} at {:#x}", pid_, at),
                    count == 0 ? EFAULT : errno);
      }
      at += static_cast<std::uint64_t>(count);
      to = to.subspan(static_cast<std::size_t>(count));
    }
  }

  pid_t pid_;
  const kernel::Vma* vma_ = nullptr;
  UniqueFd memory_;  // /proc/PID/mem: reads what the process itself may not
  UniqueFd file_;    // of the shared memory
};

class PageWriter {
 public:
  PageWriter(pid_t pid, const CaptureSettings& settings, image::RecordSink& sink)
      : reader_(pid), settings_(settings), sink_(sink), buffer_(kPiece) {
    // Page by page it would fault in at a tenth of the speed.
    static_cast<void>(::madvise(buffer_.data(), buffer_.size(), MADV_HUGEPAGE));
  }

  // Pages that the file behind a private mapping would show instead are sent even when zero.
  void write(const Mapping& mapping, bool guarded, const std::vector<PageRun>& runs) {
    if (runs.empty()) return;
    keep_zeros_ = mapping.kind == Vma::Kind::PRIVATE_FILE;
    reader_.select(mapping, guarded);
    for (const PageRun& run : runs) {
      for (RemotePtr at = run.start; at < run.end();) {
        std::uint64_t size = size_of_next(at, run.end());
        if (size == 0) {
          read_wanted();
          flush(mapping.vma.start);
          continue;
        }
        wanted_.push_back({at, size / kPageSize});
        wanted_bytes_ += size;
        at = at + size;
        if (used_ + wanted_bytes_ < buffer_.size()) continue;
        read_wanted();
        if (used_ > buffer_.size() / 2) flush(mapping.vma.start);
      }
    }
    read_wanted();
    flush(mapping.vma.start);
  }

  const MemoryTotals& totals() const { return totals_; }

 private:
  // How much from `at` on is to be read next; 0: what there is has to go first.
  std::uint64_t size_of_next(RemotePtr at, RemotePtr end) const {
    std::uint64_t room = buffer_.size() - used_ - wanted_bytes_;
    if (end - at <= room) return end - at;
    std::uint64_t cut = round_down((at + room).value(), kHugePageSize);
    if (cut > at.value()) return cut - at.value();
    return 0;
  }

  // Populates what it uses of the buffer, at most a huge page too much.
  void read_wanted() {
    if (wanted_.empty()) return;
    std::span<std::byte> bytes = buffer_.bytes().subspan(used_, wanted_bytes_);
    std::uint64_t needed = round_up(used_ + wanted_bytes_, kPageSize);
    if (needed > populated_) {
      static_cast<void>(
          ::madvise(buffer_.data() + populated_, needed - populated_, kernel::kMadvPopulateWrite));
      populated_ = needed;
    }
    reader_.read(wanted_, bytes);
    totals_.pages_read += wanted_bytes_ / kPageSize;
    for (const PageRun& run : wanted_) {
      take(run.start, bytes.first(run.pages * kPageSize));
      bytes = bytes.subspan(run.pages * kPageSize);
    }
    wanted_.clear();
    wanted_bytes_ = 0;
  }

  // Moves what travels of `bytes`, which lie behind what is used, down to it.
  void take(RemotePtr start, std::span<std::byte> bytes) {
    std::vector<PageRun> kept = keep_zeros_
                                    ? std::vector<PageRun>{{start, bytes.size() / kPageSize}}
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

  MemoryReader reader_;
  const CaptureSettings& settings_;
  image::RecordSink& sink_;
  MappedRegion buffer_;
  std::uint64_t populated_ = 0;
  bool keep_zeros_ = false;
  std::size_t used_ = 0;         // of the buffer: pages that travel
  std::vector<PageRun> runs_;    // those
  std::vector<PageRun> wanted_;  // to be read behind them
  std::uint64_t wanted_bytes_ = 0;
  MemoryTotals totals_;
};

using GuardRuns = std::vector<std::vector<PageRun>>;

// One scan of the whole address space, dealt out to the mappings.
GuardRuns find_guards_everywhere(const kernel::PageMap& map, const std::vector<Mapping>& mappings) {
  GuardRuns guards(mappings.size());
  RemotePtr end;
  for (const Mapping& mapping : mappings) {
    if (!mapping.vma.is_vsyscall()) end = mapping.vma.end;
  }
  std::size_t i = 0;
  for (PageRun run : map.guard_pages(mappings.front().vma.start, end)) {
    while (run.pages > 0) {
      const kernel::Vma& vma = mappings.at(i).vma;
      if (run.start >= vma.end) {
        ++i;
        continue;
      }
      std::uint64_t here = std::min<std::uint64_t>(run.pages, (vma.end - run.start) / kPageSize);
      guards[i].push_back({run.start, here});
      run = {run.start + here * kPageSize, run.pages - here};
    }
  }
  return guards;
}

// Where the kernel says which VMAs may hold guard pages (the flag gu), only those are scanned.
GuardRuns find_guards(const Survey& survey, kernel::PageMapAbi abi) {
  const std::vector<Mapping>& mappings = survey.mappings;
  auto flagged = [](const Mapping& mapping) { return mapping.vma.has(kernel::VmFlag::kGuard); };
  GuardRuns guards(mappings.size());
  if (std::any_of(mappings.begin(), mappings.end(), flagged)) {
    kernel::PageMap map(survey.pid, abi);
    for (std::size_t i = 0; i < mappings.size(); ++i) {
      if (!flagged(mappings[i])) continue;
      guards[i] = map.guard_pages(mappings[i].vma.start, mappings[i].vma.end);
    }
  } else if (abi == kernel::PageMapAbi::kScanGuards && !mappings.empty()) {
    guards = find_guards_everywhere(kernel::PageMap(survey.pid, abi), mappings);
  }
  return guards;
}

}  // namespace

const std::vector<PageRun>& Capture::guards_of(std::size_t index) {
  if (guards_.empty()) guards_ = find_guards(survey_, settings_.pagemap);
  return guards_.at(index);
}

void Capture::write_mappings(image::RecordSink& sink) {
  for (std::size_t i = 0; i < survey_.mappings.size(); ++i) {
    const Mapping& mapping = survey_.mappings[i];
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
    const std::vector<PageRun>& guards = guards_of(i);
    auto list = record.initGuardRuns(static_cast<unsigned>(guards.size()));
    for (unsigned k = 0; k < list.size(); ++k) {
      list[k].setStart(guards[k].start.value());
      list[k].setPages(guards[k].pages);
    }
    sink.write(image::RecordType::kVma, message);
  }
}

MemoryTotals Capture::write_pages(image::RecordSink& sink) {
  kernel::PageMap map(survey_.pid, settings_.pagemap);
  PageWriter writer(survey_.pid, settings_, sink);
  for (std::size_t i = 0; i < survey_.mappings.size(); ++i) {
    const Mapping& mapping = survey_.mappings[i];
    if (!has_pages_of_its_own(mapping)) continue;
    bool shared = mapping.kind == Vma::Kind::SHARED_ANONYMOUS;
    writer.write(mapping, !guards_of(i).empty(),
                 shared ? kernel::shared_pages(survey_.pid, mapping.vma)
                        : map.private_pages(mapping.vma.start, mapping.vma.end));
  }
  return writer.totals();
}

}  // namespace telefork::capture
