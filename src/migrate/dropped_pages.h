// Which memory of a process that serves it nobody needs any more: the other end has put it in its
// place. Who serves it from a copy (tracee/snapshot.h) has that dropped, so that whoever it is a
// copy of is alone with its pages again and writes to them without a copy.
//
//     DroppedPages dropped(pages);
//     dropped.note_sent(run, true);     // in the order in which they go
//     dropped.note_placed(bytes);       // so much of that is there
//     dropped.drop(DroppedPages::kLeast, [&](const PageRun& run) { return try_ask_to_drop(...); });
//
// Zeros are not counted by who receives them: they are there when something behind them is.
//
// What is dropped is whole 2 MB, as far as they are served: of a huge page that loses a part the
// kernel makes small ones. And it is some of them at once, since each is a message and a call.
// Pure; ServedPages looks.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "kernel/pagemap.h"
#include "migrate/served_pages.h"

namespace telefork::migrate {

class DroppedPages {
 public:
  static constexpr std::uint64_t kLeast = 8 * 1024 * 1024;  // bytes that are worth it

  // `pages` outlives it.
  explicit DroppedPages(ServedPages& pages) : pages_(pages) {}

  // Of what the process has; `has_content`: it is counted when it is placed.
  void note_sent(const kernel::PageRun& run, bool has_content);
  void note_placed(std::uint64_t bytes);
  // Calls `drop` with what nobody needs when there are `least` bytes of it, each once; false: not
  // now.
  void drop(std::uint64_t least, const std::function<bool(const kernel::PageRun&)>& drop);

 private:
  struct Sent {
    kernel::PageRun run;
    bool has_content;
    std::uint64_t end;  // sent_ behind it
  };
  bool is_placed(const Sent& sent) const;

  ServedPages& pages_;
  std::deque<Sent> under_way_;
  std::uint64_t sent_ = 0;    // bytes that are counted
  std::uint64_t placed_ = 0;  // of these
  std::vector<kernel::PageRun> unneeded_;
};

}  // namespace telefork::migrate
