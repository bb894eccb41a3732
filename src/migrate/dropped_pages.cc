#include "migrate/dropped_pages.h"

#include <algorithm>

namespace telefork::migrate {

using kernel::PageRun;

void DroppedPages::note_sent(const PageRun& run, bool has_content) {
  if (has_content) sent_ += run.pages * kPageSize;
  under_way_.push_back({run, has_content, sent_});
}

bool DroppedPages::is_placed(const Sent& sent) const {
  return sent.has_content ? sent.end <= placed_ : sent.end < placed_;
}

void DroppedPages::note_placed(std::uint64_t bytes) {
  placed_ += std::min(bytes, sent_ - placed_);
  for (; !under_way_.empty() && is_placed(under_way_.front()); under_way_.pop_front()) {
    for (const PageRun& run : pages_.mark_placed(under_way_.front().run)) {
      kernel::append_run(unneeded_, run);
    }
  }
}

void DroppedPages::drop(std::uint64_t least, const std::function<bool(const PageRun&)>& drop) {
  if (kernel::count_pages(unneeded_) * kPageSize < least) return;
  const auto left = std::find_if_not(unneeded_.begin(), unneeded_.end(), drop);
  unneeded_.erase(unneeded_.begin(), left);
}

}  // namespace telefork::migrate
