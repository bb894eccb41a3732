#include "migrate/missing_pages.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"

namespace telefork::migrate {

RemotePtr MissingPages::end_of(const Segments::value_type& segment) {
  return segment.first + segment.second.missing.size() * kPageSize;
}

void MissingPages::add(RemotePtr start, std::uint64_t pages) {
  if (pages == 0) return;
  TELEFORK_ASSERT(segment_of(start) == segments_.end());
  segments_.emplace(start, Segment{start, std::vector<bool>(pages, true), pages});
  count_ += pages;
}

MissingPages::Segments::const_iterator MissingPages::segment_of(RemotePtr at) const {
  auto after = segments_.upper_bound(at);
  if (after == segments_.begin()) return segments_.end();
  auto found = std::prev(after);
  return at < end_of(*found) ? found : segments_.end();
}

void MissingPages::split(RemotePtr at) {
  auto found = segments_.find(segment_of(at) == segments_.end() ? at : segment_of(at)->first);
  if (found == segments_.end() || found->first == at) return;
  Segment& front = found->second;
  const std::uint64_t pages = (at - found->first) / kPageSize;
  Segment back;
  back.source = front.source + pages * kPageSize;
  auto middle = front.missing.begin() + static_cast<std::ptrdiff_t>(pages);
  back.missing.assign(middle, front.missing.end());
  back.left = static_cast<std::uint64_t>(std::count(middle, front.missing.end(), true));
  front.missing.resize(pages);
  front.left -= back.left;
  segments_.emplace(at, std::move(back));
}

void MissingPages::forget(RemotePtr start, RemotePtr end) {
  split(start);
  split(end);
  auto first = segments_.lower_bound(start);
  auto last = segments_.lower_bound(end);
  for (auto segment = first; segment != last; ++segment) count_ -= segment->second.left;
  segments_.erase(first, last);
}

void MissingPages::move(RemotePtr from, RemotePtr to, std::uint64_t size) {
  split(from);
  split(from + size);
  std::vector<Segments::node_type> moved;
  for (auto at = segments_.lower_bound(from); at != segments_.end() && at->first < from + size;) {
    moved.push_back(segments_.extract(at++));
  }
  // What was there is gone (mremap(2), MREMAP_FIXED).
  forget(to, to + size);
  for (auto& segment : moved) {
    segment.key() = to + (segment.key() - from);
    segments_.insert(std::move(segment));
  }
}

std::optional<RemotePtr> MissingPages::source_of(RemotePtr at) const {
  auto found = segment_of(at);
  if (found == segments_.end()) return std::nullopt;
  const std::uint64_t page = (at - found->first) / kPageSize;
  if (!found->second.missing[page]) return std::nullopt;
  return found->second.source + page * kPageSize;
}

void MissingPages::take(RemotePtr source, std::uint64_t pages, const Place& place) {
  const RemotePtr source_end = source + pages * kPageSize;
  for (auto& [start, segment] : segments_) {
    const RemotePtr segment_end = segment.source + segment.missing.size() * kPageSize;
    if (segment.left == 0 || source_end <= segment.source || segment_end <= source) continue;
    const RemotePtr first = std::max(source, segment.source);
    const std::uint64_t begin = (first - segment.source) / kPageSize;
    const std::uint64_t end = (std::min(source_end, segment_end) - segment.source) / kPageSize;
    for (std::uint64_t page = begin; page < end;) {
      if (!segment.missing[page]) {
        ++page;
        continue;
      }
      const std::uint64_t run = page;
      while (page < end && segment.missing[page]) segment.missing[page++] = false;
      segment.left -= page - run;
      count_ -= page - run;
      place(start + run * kPageSize, segment.source + run * kPageSize, page - run);
    }
  }
}

bool MissingPages::knows_any(RemotePtr start, RemotePtr end) const {
  auto after = segments_.lower_bound(end);
  return after != segments_.begin() && end_of(*std::prev(after)) > start;
}

void MissingPages::put_back(RemotePtr at, std::uint64_t pages) {
  auto found = segments_.find(segment_of(at)->first);
  TELEFORK_ASSERT(found != segments_.end());
  const std::uint64_t first = (at - found->first) / kPageSize;
  Segment& segment = found->second;
  TELEFORK_ASSERT(first + pages <= segment.missing.size());
  for (std::uint64_t page = first; page < first + pages; ++page) {
    TELEFORK_ASSERT(!segment.missing[page]);
    segment.missing[page] = true;
  }
  segment.left += pages;
  count_ += pages;
}

void MissingPages::clear() {
  segments_.clear();
  count_ = 0;
}

std::vector<kernel::PageRun> MissingPages::runs(RemotePtr start, RemotePtr end) const {
  std::vector<kernel::PageRun> runs;
  auto segment = segment_of(start);
  if (segment == segments_.end()) segment = segments_.lower_bound(start);
  for (; segment != segments_.end() && segment->first < end; ++segment) {
    if (segment->second.left == 0) continue;
    const std::vector<bool>& missing = segment->second.missing;
    const RemotePtr last = std::min(end, end_of(*segment));
    for (RemotePtr at = std::max(start, segment->first); at < last; at = at + kPageSize) {
      if (missing[(at - segment->first) / kPageSize]) kernel::append_run(runs, {at, 1});
    }
  }
  return runs;
}

std::vector<kernel::PageRun> MissingPages::moved_sources() const {
  std::vector<kernel::PageRun> runs;
  for (const auto& [at, segment] : segments_) {
    if (at == segment.source) continue;
    for (std::uint64_t page = 0; page < segment.missing.size(); ++page) {
      if (segment.missing[page]) kernel::append_run(runs, {segment.source + page * kPageSize, 1});
    }
  }
  return runs;
}

}  // namespace telefork::migrate
