// Reads the pages of a process that must travel, batch by batch.
//
//     PageGatherer gatherer(pid, shares_pages, exchange);
//     gatherer.add(mapping, guarded, map.private_pages(...));   // calls exchange() with what is
//     full gatherer.finish();
//
// It needs no tracer's thread: what it does is read files of /proc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <sys/types.h>

#include "base/mapped_region.h"
#include "capture/kept_there.h"
#include "capture/survey.h"
#include "kernel/pagemap.h"

namespace telefork::capture {

// The content of one Pages record, at most `size` bytes.
class PageBatch {
 public:
  static constexpr std::size_t kSize = 2 * 1024 * 1024;  // a huge page stays in one piece
  // Of memory without huge pages: it is on its way sooner.
  static constexpr std::size_t kSmallSize = 256 * 1024;

  explicit PageBatch(std::size_t size = kSize) : buffer_(size) {}

  std::span<const std::byte> bytes() const { return buffer_.bytes().first(used); }
  std::size_t size() const { return buffer_.size(); }
  std::byte* end() const { return buffer_.data() + used; }
  // Behind what is used, made present.
  std::span<std::byte> room_for(std::size_t size);
  void clear();

  std::vector<kernel::PageRun> runs;
  std::vector<kernel::PageRun> dropped;  // in no order
  std::vector<kernel::PageRun> kept;     // they are there already
  std::uint64_t kept_pages = 0;
  std::size_t used = 0;          // bytes: of the runs
  std::uint64_t pages_read = 0;  // the others were zero

 private:
  MappedRegion buffer_;
  std::uint64_t populated_ = 0;
};

class PageGatherer {
 public:
  // Takes a full batch, or at first none, and gives an empty one.
  using Exchange = std::function<std::unique_ptr<PageBatch>(std::unique_ptr<PageBatch>)>;

  // `there`: what need not be sent; null: nothing is.
  PageGatherer(pid_t pid, bool shares_pages, const Exchange& exchange,
               const KeptThere* there = nullptr);
  ~PageGatherer();
  PageGatherer(const PageGatherer&) = delete;
  PageGatherer& operator=(const PageGatherer&) = delete;

  // Those of `runs`, in rising order, that are not zero. Pages that the file behind a private
  // mapping would show instead are gathered even when zero. `guarded`: there are guard pages in it.
  // `tells_zeros`: whoever gets the pages has others in their places, so that those that are left
  // out as zero are dropped ones.
  void add(const Mapping& mapping, bool guarded, const std::vector<kernel::PageRun>& runs,
           bool tells_zeros = false);
  void drop(const std::vector<kernel::PageRun>& runs);
  // Pages of one mapping, rising, that need neither be sent nor read.
  void keep(const std::vector<kernel::PageRun>& runs);
  // Hands over what there still is.
  void finish();

 private:
  struct Wanted {
    kernel::PageRun run;
    bool begins_mapping;
    bool keep_zeros;
    bool tells_zeros;
  };
  class MemoryReader;
  std::uint64_t size_of_next(RemotePtr at, RemotePtr end) const;
  void read_wanted();
  void take(const Wanted& wanted, std::span<std::byte> bytes);
  std::vector<kernel::PageRun> leave_out_kept(const Wanted& wanted,
                                              const std::vector<kernel::PageRun>& runs,
                                              std::span<const std::byte> bytes);
  void hand_over();

  std::unique_ptr<MemoryReader> reader_;
  const Exchange& exchange_;
  const KeptThere* there_;
  std::unique_ptr<PageBatch> batch_;
  std::size_t own_runs_ = 0;    // of the batch's, those before are of earlier mappings
  std::size_t own_kept_ = 0;    // likewise
  std::vector<Wanted> wanted_;  // to be read behind what is used
  std::uint64_t wanted_bytes_ = 0;
};

}  // namespace telefork::capture
