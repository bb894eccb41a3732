// Which pages of a process that left its memory behind are still to be sent, and in which order.
//
//     ServedPages pages(ranges, [&](start, end) { return map.private_pages(start, end); });
//     pages.leave_out(run);               // what of it holds anything went ahead
//     pages.mark_sent(run);
//     pages.next(at, 256)                 // the first run to be pushed from `at` on, then from the
//                                         // beginning; empty: all was sent
//     pages.answer(address, 16)           // what to say to who waits for that page
//     pages.mark_placed(run)              // it was sent, and is there: what nobody needs by that
//
// What the process has there is asked 8 MB at a time, when it is needed: a scan of all would hold
// up the first answer. Pure but for that.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/remote_ptr.h"
#include "kernel/pagemap.h"

namespace telefork::migrate {

class ServedPages {
 public:
  struct Range {
    RemotePtr start;
    RemotePtr end;
  };
  // The pages in [start, end) that the process has, rising.
  using Look = std::function<std::vector<kernel::PageRun>(RemotePtr start, RemotePtr end)>;

  // `ranges` rise.
  ServedPages(const std::vector<Range>& ranges, Look look);

  void leave_out(const kernel::PageRun& run);
  void mark_sent(const kernel::PageRun& run);
  // Of what was sent. Gives the whole 2 MB, as far as they are served, of which nothing is needed
  // any more: each when the last of it is placed.
  std::vector<kernel::PageRun> mark_placed(const kernel::PageRun& run);

  // At most `limit` pages, which are not sent until mark_sent().
  std::optional<kernel::PageRun> next(RemotePtr at, std::uint64_t limit);

  struct Answer {
    kernel::PageRun run;
    bool has_content;
  };
  // Of the page at `address`, and those behind it that are alike; empty: it was sent already.
  // Throws kCorrupt where nothing is served.
  std::optional<Answer> answer(RemotePtr address, std::uint64_t limit);

 private:
  static constexpr std::uint64_t kChunkPages = 2048;
  static constexpr std::uint64_t kBlockPages = 512;  // of a huge page
  struct Part {
    RemotePtr start;
    std::uint64_t pages;
    std::vector<bool> looked;   // a chunk each
    std::vector<bool> present;  // a page each, as far as was looked
    std::vector<bool> sent;
    std::vector<bool> left_out;
    std::vector<bool> placed;
  };
  Part* part_of(RemotePtr address);
  // Sets those of `run` in what `which` names.
  void mark(const kernel::PageRun& run, std::vector<bool> Part::*which);
  void look_at(Part& part, std::uint64_t page);
  bool all_placed(Part& part, std::uint64_t from, std::uint64_t to);
  std::optional<kernel::PageRun> next_in(Part& part, std::uint64_t from, std::uint64_t to,
                                         std::uint64_t limit);

  std::vector<Part> parts_;
  Look look_;
};

}  // namespace telefork::migrate
