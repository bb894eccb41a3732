// The memory map, and the pages that must travel.
#include <algorithm>
#include <functional>
#include <memory>
#include <span>

#include "base/conveyor.h"
#include "capture/capture.h"
#include "capture/guard_scan.h"
#include "capture/page_gatherer.h"
#include "kernel/abi.h"
#include "kernel/write_watch.h"

namespace telefork::capture {
namespace {

using image::schema::Vma;
using kernel::PageRun;

// Less memory is not worth a thread.
constexpr std::uint64_t kAloneKb = 16 * 1024;
constexpr std::size_t kBatchesOnTheWay = 2;

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

// As it was when the snapshot was made: kernel/fork.c, dup_mmap. Huge pages of the pool are taken
// from it where the process writes to them and the pool is empty (mm/hugetlb.c, hugetlb_wp).
bool is_in_snapshot(const Mapping& mapping) {
  return mapping.kind != Vma::Kind::SHARED_ANONYMOUS &&
         !mapping.vma.has(kernel::VmFlag::kHugeTlb) &&
         !mapping.vma.has(kernel::VmFlag::kDontCopy) &&
         !mapping.vma.has(kernel::VmFlag::kWipeOnFork);
}

void fill_runs(const std::vector<PageRun>& runs,
               ::capnp::List<image::schema::PageRun>::Builder list) {
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setStart(runs[i].start.value());
    list[i].setPages(runs[i].pages);
  }
}

void fill_segment(const Segment& segment, image::schema::Segment::Builder record) {
  record.setId(segment.id);
  record.setKey(segment.key);
  record.setSize(segment.size);
  record.setMode(segment.mode);
  record.setUid(segment.uid);
  record.setGid(segment.gid);
}

void write_record(PageBatch& batch, image::RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto pages = message.initRoot<image::schema::Pages>();
  fill_runs(batch.runs, pages.initRuns(static_cast<unsigned>(batch.runs.size())));
  std::sort(batch.dropped.begin(), batch.dropped.end(),
            [](const PageRun& a, const PageRun& b) { return a.start < b.start; });
  fill_runs(batch.dropped, pages.initDropped(static_cast<unsigned>(batch.dropped.size())));
  fill_runs(batch.kept, pages.initKept(static_cast<unsigned>(batch.kept.size())));
  sink.begin_payload_record(image::RecordType::kPages, message, batch.used);
  sink.payload(batch.bytes());
}

using RunsOfEach = std::vector<std::vector<PageRun>>;

// What one scan has found, for each mapping. Between them may be what is not the program's: a stub.
RunsOfEach deal_out(const std::vector<PageRun>& runs, std::span<const Mapping> mappings) {
  RunsOfEach dealt(mappings.size());
  std::size_t i = 0;
  for (PageRun run : runs) {
    while (run.pages > 0 && i < mappings.size()) {
      const kernel::Vma& vma = mappings[i].vma;
      if (run.start >= vma.end) {
        ++i;
        continue;
      }
      RemotePtr start = std::max(run.start, vma.start);
      RemotePtr end = std::min(run.end(), vma.end);
      if (start < end) dealt[i].push_back({start, (end - start) / kPageSize});
      end = std::max(end, std::min(run.end(), vma.start));
      run = {end, (run.end() - end) / kPageSize};
    }
  }
  return dealt;
}

std::vector<PageRun> find_guards_everywhere(const kernel::PageMap& map,
                                            const std::vector<Mapping>& mappings) {
  RemotePtr end;
  for (const Mapping& mapping : mappings) {
    if (!mapping.vma.is_vsyscall()) end = mapping.vma.end;
  }
  return map.guard_pages(mappings.front().vma.start, end);
}

// Where the kernel says which VMAs may hold guard pages (the flag gu), only those are scanned.
// `look`: what has begun already; empty: nothing has.
RunsOfEach find_guards(const Survey& survey, kernel::PageMapAbi abi,
                       const std::function<std::vector<PageRun>()>& look) {
  const std::vector<Mapping>& mappings = survey.mappings;
  auto flagged = [](const Mapping& mapping) { return mapping.vma.has(kernel::VmFlag::kGuard); };
  RunsOfEach guards(mappings.size());
  if (std::any_of(mappings.begin(), mappings.end(), flagged)) {
    kernel::PageMap map(survey.pid, abi);
    for (std::size_t i = 0; i < mappings.size(); ++i) {
      if (!flagged(mappings[i])) continue;
      guards[i] = map.guard_pages(mappings[i].vma.start, mappings[i].vma.end);
    }
  } else if (abi == kernel::PageMapAbi::kScanGuards && !mappings.empty()) {
    const std::vector<PageRun> found =
        look ? look() : find_guards_everywhere(kernel::PageMap(survey.pid, abi), mappings);
    guards = deal_out(found, mappings);
  }
  return guards;
}

// The pages of private mappings, asked for in their order. A system call each would cost small ones
// more than their pages do, so those that are neighbours are scanned at once.
class PrivatePages {
 public:
  PrivatePages(const kernel::PageMap& map, const std::vector<Mapping>& mappings)
      : map_(map), mappings_(mappings) {}

  std::vector<PageRun> take(std::size_t index) {
    if (index >= first_ + runs_.size()) scan(index);
    return std::move(runs_.at(index - first_));
  }

 private:
  static constexpr std::uint64_t kSmall = 256 * 1024;
  static constexpr std::size_t kMostAtOnce = 4096;

  static bool is_private(const Mapping& mapping) {
    return has_pages_of_its_own(mapping) && mapping.kind != Vma::Kind::SHARED_ANONYMOUS;
  }

  void scan(std::size_t first) {
    const auto of = kernel::PageMap::kind_of(mappings_[first].vma);
    std::size_t end = first + 1;
    bool small = mappings_[first].vma.size() <= kSmall;
    while (small && end < mappings_.size() && end - first < kMostAtOnce) {
      const Mapping& next = mappings_[end];
      if (!is_private(next) || kernel::PageMap::kind_of(next.vma) != of) break;
      if (next.vma.size() > kSmall) break;
      ++end;
    }
    first_ = first;
    runs_ = deal_out(map_.private_pages(mappings_[first].vma.start, mappings_[end - 1].vma.end, of),
                     std::span(mappings_).subspan(first, end - first));
  }

  const kernel::PageMap& map_;
  const std::vector<Mapping>& mappings_;
  std::size_t first_ = 0;
  RunsOfEach runs_;
};

}  // namespace

const std::vector<PageRun>& Capture::guards_of(std::size_t index) {
  if (!guards_.empty()) return guards_.at(index);
  std::function<std::vector<PageRun>()> look;
  if (settings_.live != nullptr) {
    look = [this] { return settings_.live->guards(); };
  } else if (settings_.guard_scan != nullptr) {
    look = [this] { return settings_.guard_scan->finish(); };
  }
  guards_ = find_guards(survey_, settings_.pagemap, look);
  return guards_.at(index);
}

void Capture::write_mappings(image::RecordSink& sink) {
  for (std::size_t i = 0; i < survey_.mappings.size(); ++i) write_mapping(i, sink);
}

void Capture::write_mapping(std::size_t index, image::RecordSink& sink) {
  const Mapping& mapping = survey_.mappings[index];
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
  record.setHugeShift(static_cast<std::uint8_t>(vma.huge_shift()));
  record.setLazy(settings_.lazy != nullptr && settings_.lazy->has(vma));
  if (mapping.segment) fill_segment(*mapping.segment, record.initSegment());
  if (mapping.file) survey_.files.fill(*mapping.file, record.initFile());
  const std::vector<PageRun>& guards = guards_of(index);
  fill_runs(guards, record.initGuardRuns(static_cast<unsigned>(guards.size())));
  if (settings_.live != nullptr && guards.empty() && settings_.live->can_use(survey_, index)) {
    LivePlan::Pages pages = settings_.live->look(survey_, index);
    fill_runs(pages.staged, record.initStaged(static_cast<unsigned>(pages.staged.size())));
    travelling_[index] = std::move(pages.travelling);
  }
  sink.write(image::RecordType::kVma, message);
}

// Of memory that follows: what goes with the image nevertheless.
void Capture::add_ahead(const Mapping& mapping, const kernel::PageMap& map,
                        PageGatherer& gatherer) {
  std::vector<PageRun> runs;
  for (const PageRun& run : settings_.lazy->ahead_in(mapping.vma)) {
    const auto kind = kernel::PageMap::kind_of(mapping.vma);
    for (const PageRun& found : map.private_pages(run.start, run.end(), kind)) {
      kernel::append_run(runs, found);
    }
  }
  gatherer.add(mapping, false, runs);
}

void Capture::gather_pages(const PageSource& source, const PageGatherer::Exchange& exchange) {
  kernel::PageMap map(source.pid, settings_.pagemap);
  PageGatherer gatherer(source.pid, source.shares_pages, exchange, settings_.kept);
  PrivatePages private_pages(map, survey_.mappings);
  for (std::size_t i = 0; i < survey_.mappings.size(); ++i) {
    const Mapping& mapping = survey_.mappings[i];
    if (!has_pages_of_its_own(mapping) || !source.has(mapping)) continue;
    if (settings_.is_written && settings_.is_written(mapping)) continue;
    if (settings_.lazy != nullptr && settings_.lazy->has(mapping.vma)) {
      add_ahead(mapping, map, gatherer);
      continue;
    }
    if (auto travelling = travelling_.extract(i)) {
      gatherer.add(mapping, false, travelling.mapped(), true);
      continue;
    }
    if (settings_.changes) {
      ChangedPages changed = settings_.changes(mapping);
      gatherer.add(mapping, !guards_of(i).empty(), changed.written, true);
      gatherer.drop(changed.dropped);
      continue;
    }
    if (mapping.vma.has(kernel::VmFlag::kUffdMissing)) {
      // What has not come to it yet comes when it is read.
      gatherer.add(mapping, !guards_of(i).empty(),
                   {{mapping.vma.start, mapping.vma.size() / kPageSize}});
      continue;
    }
    const kernel::Vma& vma = mapping.vma;
    bool shared = mapping.kind == Vma::Kind::SHARED_ANONYMOUS;
    std::vector<PageRun> runs =
        shared ? kernel::shared_pages(source.pid, vma) : private_pages.take(i);
    if (settings_.kept != nullptr && !shared) {
      const std::vector<PageRun>& clean = settings_.kept->clean();
      gatherer.keep(kernel::subtract_runs(clean, vma.start, vma.end, {}));
      runs = kernel::subtract_runs(runs, vma.start, vma.end, clean);
    }
    gatherer.add(mapping, !guards_of(i).empty(), runs);
  }
  gatherer.finish();
}

// Reading takes a processor as long as sending does: one batch is read while another is on its way.
MemoryTotals Capture::write_pages_of(const PageSource& source, image::RecordSink& sink) {
  MemoryTotals totals;
  auto write = [&](PageBatch& batch) {
    if (batch.used > 0 || !batch.dropped.empty() || !batch.kept.empty()) write_record(batch, sink);
    totals.pages_read += batch.pages_read;
    totals.pages_kept += batch.kept_pages;
    totals.pages_sent += batch.used / kPageSize;
    if (settings_.on_progress) settings_.on_progress(totals.pages_read * kPageSize);
  };
  if (settings_.few_pages || survey_.status.resident_kb < kAloneKb) {
    const bool no_huge_page =
        settings_.few_pages || survey_.status.anonymous_kb < kHugePageSize / 1024;
    gather_pages(source, [&](std::unique_ptr<PageBatch> full) {
      if (!full) {
        return std::make_unique<PageBatch>(no_huge_page ? PageBatch::kSmallSize : PageBatch::kSize);
      }
      write(*full);
      full->clear();
      return full;
    });
    return totals;
  }
  Conveyor<std::unique_ptr<PageBatch>> conveyor;
  for (std::size_t i = 0; i < kBatchesOnTheWay; ++i) {
    conveyor.give_back(std::make_unique<PageBatch>());
  }
  conveyor.run(
      [&] {
        gather_pages(source, [&conveyor](std::unique_ptr<PageBatch> full) {
          if (full) conveyor.hand_over(std::move(full));
          return conveyor.take_empty();
        });
      },
      [&](std::unique_ptr<PageBatch> batch) {
        write(*batch);
        batch->clear();
        conveyor.give_back(std::move(batch));
      });
  return totals;
}

MemoryTotals Capture::write_pages(image::RecordSink& sink) {
  return write_pages_of({survey_.pid, settings_.shares_pages, [](const Mapping&) { return true; }},
                        sink);
}

void Capture::write_pages_beside_snapshot(image::RecordSink& sink) {
  auto has = [](const Mapping& mapping) { return !is_in_snapshot(mapping); };
  if (std::any_of(survey_.mappings.begin(), survey_.mappings.end(), has)) {
    write_pages_of({survey_.pid, settings_.shares_pages, has}, sink);
  }
}

void Capture::write_pages_of_snapshot(pid_t snapshot, image::RecordSink& sink) {
  write_pages_of({snapshot, true, is_in_snapshot}, sink);
}

}  // namespace telefork::capture
