// Pages of a process that runs, sent again and again as it writes to them.
//
//     PageRounds rounds(pid, abi, userfaultfd, areas);   // which the process has made
//     rounds.send(sink, on_piece);                       // what was written since the last one
//     ...
//     std::unique_ptr<LivePlan> plan = rounds.plan();    // it stands still from now on
//
// Each page is write-protected before it is read (PageMap::protect_written()), so that a write
// which the reading has missed is seen by the next round, or by the plan. The process only notices
// that its first write to a page takes a fault more.
//
// With it the watch ends: what was protected is no more, and nothing of it is left in the process.
// The kernel takes up to 30 ms for 1 GB. Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <sys/types.h>

#include "base/mapped_region.h"
#include "base/unique_fd.h"
#include "capture/live_plan.h"
#include "image/record_sink.h"
#include "kernel/pagemap.h"
#include "kernel/write_watch.h"

namespace telefork::migrate {

class PageRounds {
 public:
  // Areas that are gone by now, or watched by somebody else, are left out. Throws kUnsupported
  // where this kernel cannot watch.
  PageRounds(pid_t pid, kernel::PageMapAbi abi, UniqueFd userfaultfd,
             std::vector<kernel::Vma> areas);
  PageRounds(const PageRounds&) = delete;
  PageRounds& operator=(const PageRounds&) = delete;

  const std::vector<kernel::Vma>& areas() const { return areas_; }

  struct Round {
    std::uint64_t pages = 0;  // that were looked at
    std::uint64_t sent = 0;   // the others were zero, or gone
  };
  // As Pages records; `on_piece` is called between them.
  Round send(image::RecordSink& sink, const std::function<void()>& on_piece);

  std::unique_ptr<capture::LivePlan> plan() const;

 private:
  void add(kernel::PageRun run, image::RecordSink& sink);
  void flush(image::RecordSink& sink);
  void read_wanted();
  void read_singly(std::span<const kernel::PageRun> runs, std::span<std::byte> to);
  bool is_area_start(RemotePtr at) const;
  std::size_t keep(kernel::PageRun run, std::size_t from, std::size_t to);

  pid_t pid_;
  kernel::PageMapAbi abi_;
  kernel::PageMap map_;
  kernel::WriteWatch watch_;
  std::vector<kernel::Vma> areas_;
  MappedRegion buffer_;
  std::vector<kernel::PageRun> wanted_;    // to be read at once
  std::vector<kernel::PageRun> readable_;  // of these, what could be
  std::uint64_t wanted_bytes_ = 0;
  std::vector<kernel::PageRun> kept_;  // of these, what is not zero
  // All rise. Of this round:
  std::vector<kernel::PageRun> looked_at_, came_, were_zero_;
  // Of all:
  std::vector<kernel::PageRun> sent_, zeros_;
};

}  // namespace telefork::migrate
