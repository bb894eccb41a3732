#include "capture/page_gatherer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/zero_page.h"
#include "kernel/abi.h"
#include "tracee/memory.h"

namespace telefork::capture {
namespace {

using image::schema::Vma;
using kernel::PageRun;

// Large runs are cut where huge pages begin, so that they arrive as whole ones.
static_assert(PageBatch::kSize % kHugePageSize == 0);
constexpr std::uint64_t kPopulate = 256 * 1024;  // of the buffer at a time
constexpr std::size_t kMaxVectors = 1024;        // IOV_MAX
constexpr std::size_t kMaxDropped = 64 * 1024;   // runs of a Pages record
constexpr std::uint64_t kMaxKept = 1024;         // pages of a batch: others look after them then
constexpr std::size_t kMaxKeptRuns = 64 * 1024;  // of what nobody need look after

// Runs of the pages in [start, start + bytes.size()) that are not all zero.
std::vector<PageRun> non_zero_runs(RemotePtr start, std::span<const std::byte> bytes) {
  std::vector<PageRun> runs;
  for (std::size_t at = 0; at < bytes.size(); at += kPageSize) {
    if (!is_zero_page(bytes.subspan(at, kPageSize))) kernel::append_run(runs, {start + at, 1});
  }
  return runs;
}

// What of [start, end) is in none of `runs`, which lie within and rise.
std::vector<PageRun> gaps_between(RemotePtr start, RemotePtr end,
                                  const std::vector<PageRun>& runs) {
  std::vector<PageRun> gaps;
  for (const PageRun& run : runs) {
    kernel::append_run(gaps, {start, (run.start - start) / kPageSize});
    start = run.end();
  }
  kernel::append_run(gaps, {start, (end - start) / kPageSize});
  return gaps;
}

}  // namespace

// The memory of a process, also where it may not read it itself. process_vm_readv(2) is the fastest
// way to pages that no other process has; of one that is shared with a parent it first makes a copy
// for the process, since it pins what it reads (gup_must_unshare in mm/internal.h).
class PageGatherer::MemoryReader {
 public:
  MemoryReader(pid_t pid, bool shares_pages) : pid_(pid), shares_pages_(shares_pages) {}

  // Whether what is wanted of the mapping before and of this one may be read at once.
  bool continues(const Mapping& mapping, bool guarded) const {
    return pinned_ && may_pin(mapping, guarded);
  }
  // From now on reads of this mapping.
  void select(const Mapping& mapping, bool guarded) {
    vma_ = &mapping.vma;
    file_.reset();
    if (is_seen_through_file(mapping, guarded)) {
      file_.reset(::open(kernel::map_files_path(pid_, *vma_).c_str(), O_RDONLY | O_CLOEXEC));
    }
    pinned_ = may_pin(mapping, guarded);
    if (!pinned_ && !file_ && !memory_) memory_ = open_file(kernel::mem_path(pid_), O_RDONLY);
  }

  // All runs, one after another.
  void read(std::span<const Wanted> wanted, std::span<std::byte> to) {
    if (pinned_) {
      read_pinned(wanted, to);
      return;
    }
    for (const auto& [run, begins, zeros, tells] : wanted) {
      std::span<std::byte> piece = to.first(run.pages * kPageSize);
      std::uint64_t at = file_ ? vma_->offset + (run.start - vma_->start) : run.start.value();
      read_at(file_ ? file_ : memory_, at, piece);
      to = to.subspan(piece.size());
    }
  }

 private:
  // Pages behind guards are seen through the object only. To read huge ones through the mapping
  // would take pages from the pool for its holes, which read(2) of hugetlbfs does not.
  static bool is_seen_through_file(const Mapping& mapping, bool guarded) {
    return mapping.kind == Vma::Kind::SHARED_ANONYMOUS &&
           (guarded || !mapping.vma.read || mapping.vma.has(kernel::VmFlag::kHugeTlb));
  }
  bool may_pin(const Mapping& mapping, bool guarded) const {
    // Only so it is waited for what has not come yet (docs/limits.md).
    const bool may_wait = mapping.vma.has(kernel::VmFlag::kUffdMissing);
    return mapping.vma.read && (!shares_pages_ || may_wait) &&
           !is_seen_through_file(mapping, guarded);
  }

  void read_pinned(std::span<const Wanted> wanted, std::span<std::byte> to) {
    for (std::size_t first = 0; first < wanted.size(); first += kMaxVectors) {
      auto part = wanted.subspan(first, std::min(kMaxVectors, wanted.size() - first));
      std::vector<iovec> remote;
      std::size_t bytes = 0;
      for (const auto& [run, begins, zeros, tells] : part) {
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
  void read_singly(std::span<const Wanted> wanted, std::span<std::byte> to) {
    for (const auto& [run, begins, zeros, tells] : wanted) {
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
  bool shares_pages_;
  const kernel::Vma* vma_ = nullptr;
  bool pinned_ = false;
  UniqueFd memory_;  // /proc/PID/mem: reads also what the process itself may not
  UniqueFd file_;    // of the shared memory
};

std::span<std::byte> PageBatch::room_for(std::size_t size) {
  std::uint64_t needed = std::min<std::uint64_t>(round_up(used + size, kPopulate), buffer_.size());
  if (needed > populated_) {
    static_cast<void>(
        ::madvise(buffer_.data() + populated_, needed - populated_, kernel::kMadvPopulateWrite));
    populated_ = needed;
  }
  return buffer_.bytes().subspan(used, size);
}

void PageBatch::clear() {
  runs.clear();
  dropped.clear();
  kept.clear();
  kept_pages = 0;
  used = 0;
  pages_read = 0;
}

PageGatherer::PageGatherer(pid_t pid, bool shares_pages, const Exchange& exchange,
                           const KeptThere* there)
    : reader_(std::make_unique<MemoryReader>(pid, shares_pages)),
      exchange_(exchange),
      there_(there),
      batch_(exchange(nullptr)) {}

PageGatherer::~PageGatherer() = default;

void PageGatherer::add(const Mapping& mapping, bool guarded, const std::vector<PageRun>& runs,
                       bool tells_zeros) {
  if (runs.empty()) return;
  if (!reader_->continues(mapping, guarded)) read_wanted();
  reader_->select(mapping, guarded);
  bool begins = true;
  for (const PageRun& run : runs) {
    for (RemotePtr at = run.start; at < run.end();) {
      std::uint64_t size = size_of_next(at, run.end());
      if (size == 0) {
        read_wanted();
        hand_over();
        continue;
      }
      wanted_.push_back(
          {{at, size / kPageSize}, begins, mapping.kind == Vma::Kind::PRIVATE_FILE, tells_zeros});
      wanted_bytes_ += size;
      begins = false;
      at = at + size;
      if (batch_->used + wanted_bytes_ < batch_->size()) continue;
      read_wanted();
      if (batch_->used > batch_->size() / 2 || batch_->kept_pages >= kMaxKept) hand_over();
    }
  }
}

void PageGatherer::drop(const std::vector<PageRun>& runs) {
  for (const PageRun& run : runs) {
    batch_->dropped.push_back(run);
    if (batch_->dropped.size() >= kMaxDropped) hand_over();
  }
}

void PageGatherer::keep(const std::vector<PageRun>& runs) {
  for (const PageRun& run : runs) {
    if (batch_->kept.size() >= kMaxKeptRuns) {
      read_wanted();
      hand_over();
    }
    batch_->kept.push_back(run);
    batch_->kept_pages += run.pages;
  }
}

void PageGatherer::finish() {
  read_wanted();
  if (batch_->pages_read > 0 || !batch_->dropped.empty() || !batch_->kept.empty()) hand_over();
}

void PageGatherer::hand_over() {
  batch_ = exchange_(std::move(batch_));
  own_runs_ = 0;
  own_kept_ = 0;
}

// How much from `at` on is to be read next; 0: what there is has to go first.
std::uint64_t PageGatherer::size_of_next(RemotePtr at, RemotePtr end) const {
  std::uint64_t room = batch_->size() - batch_->used - wanted_bytes_;
  if (end - at <= room) return end - at;
  std::uint64_t unit = batch_->size() < kHugePageSize ? kPageSize : kHugePageSize;
  std::uint64_t cut = round_down((at + room).value(), unit);
  if (cut > at.value()) return cut - at.value();
  return 0;
}

void PageGatherer::read_wanted() {
  if (wanted_.empty()) return;
  std::span<std::byte> bytes = batch_->room_for(wanted_bytes_);
  reader_->read(wanted_, bytes);
  batch_->pages_read += wanted_bytes_ / kPageSize;
  for (const Wanted& one : wanted_) {
    take(one, bytes.first(one.run.pages * kPageSize));
    bytes = bytes.subspan(one.run.pages * kPageSize);
  }
  wanted_.clear();
  wanted_bytes_ = 0;
}

// What of `runs`, which lie in `bytes` of `wanted`, has to be sent.
std::vector<PageRun> PageGatherer::leave_out_kept(const Wanted& wanted,
                                                  const std::vector<PageRun>& runs,
                                                  std::span<const std::byte> bytes) {
  if (wanted.begins_mapping) own_kept_ = batch_->kept.size();
  std::vector<PageRun> sent;
  for (const PageRun& run : runs) {
    for (RemotePtr at = run.start; at < run.end(); at = at + kPageSize) {
      if (!there_->has(at, bytes.subspan(at - wanted.run.start, kPageSize))) {
        kernel::append_run(sent, {at, 1});
        continue;
      }
      ++batch_->kept_pages;
      if (batch_->kept.size() == own_kept_) {
        batch_->kept.push_back({at, 1});
      } else {
        kernel::append_run(batch_->kept, {at, 1});
      }
    }
  }
  return sent;
}

// Moves what travels of `bytes`, which lie behind what is used, down to it.
void PageGatherer::take(const Wanted& wanted, std::span<std::byte> bytes) {
  const PageRun& all = wanted.run;
  std::vector<PageRun> sent =
      wanted.keep_zeros ? std::vector<PageRun>{all} : non_zero_runs(all.start, bytes);
  if (wanted.tells_zeros) {
    std::vector<PageRun> zeros = gaps_between(all.start, all.end(), sent);
    batch_->dropped.insert(batch_->dropped.end(), zeros.begin(), zeros.end());
  }
  if (there_ != nullptr) sent = leave_out_kept(wanted, sent, bytes);
  // A run is of one VMA only.
  if (wanted.begins_mapping) own_runs_ = batch_->runs.size();
  for (const PageRun& run : sent) {
    std::size_t size = run.pages * kPageSize;
    std::byte* to = batch_->end();
    const std::byte* from = bytes.data() + (run.start - all.start);
    if (to != from) std::memmove(to, from, size);
    batch_->used += size;
    if (batch_->runs.size() == own_runs_) {
      batch_->runs.push_back(run);
    } else {
      kernel::append_run(batch_->runs, run);
    }
  }
}

}  // namespace telefork::capture
