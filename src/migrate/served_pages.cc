#include "migrate/served_pages.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::migrate {

using kernel::PageRun;

ServedPages::ServedPages(const std::vector<Range>& ranges, Look look) : look_(std::move(look)) {
  for (const Range& range : ranges) {
    const std::uint64_t pages = (range.end - range.start) / kPageSize;
    TELEFORK_ASSERT(parts_.empty() ||
                    parts_.back().start + parts_.back().pages * kPageSize <= range.start);
    parts_.push_back({range.start, pages,
                      std::vector<bool>((pages + kChunkPages - 1) / kChunkPages),
                      std::vector<bool>(pages), std::vector<bool>(pages), std::vector<bool>(pages),
                      std::vector<bool>(pages)});
  }
}

ServedPages::Part* ServedPages::part_of(RemotePtr address) {
  auto after =
      std::upper_bound(parts_.begin(), parts_.end(), address,
                       [](RemotePtr wanted, const Part& part) { return wanted < part.start; });
  if (after == parts_.begin()) return nullptr;
  Part& part = *std::prev(after);
  return address < part.start + part.pages * kPageSize ? &part : nullptr;
}

void ServedPages::look_at(Part& part, std::uint64_t page) {
  const std::uint64_t chunk = page / kChunkPages;
  if (part.looked[chunk]) return;
  part.looked[chunk] = true;
  const std::uint64_t first = chunk * kChunkPages;
  const std::uint64_t last = std::min(first + kChunkPages, part.pages);
  for (const PageRun& run : look_(part.start + first * kPageSize, part.start + last * kPageSize)) {
    auto begin =
        part.present.begin() + static_cast<std::ptrdiff_t>((run.start - part.start) / kPageSize);
    std::fill(begin, begin + static_cast<std::ptrdiff_t>(run.pages), true);
  }
  for (std::uint64_t i = first; i < last; ++i) {
    if (part.left_out[i]) part.present[i] = false;
  }
}

void ServedPages::mark(const PageRun& run, std::vector<bool> Part::*which) {
  Part* part = part_of(run.start);
  TELEFORK_ASSERT(part != nullptr && run.end() <= part->start + part->pages * kPageSize);
  auto begin =
      (part->*which).begin() + static_cast<std::ptrdiff_t>((run.start - part->start) / kPageSize);
  std::fill(begin, begin + static_cast<std::ptrdiff_t>(run.pages), true);
}

void ServedPages::mark_sent(const PageRun& run) { mark(run, &Part::sent); }

bool ServedPages::all_placed(Part& part, std::uint64_t from, std::uint64_t to) {
  for (std::uint64_t page = from; page < to; ++page) {
    look_at(part, page);
    if (part.present[page] && !part.placed[page]) return false;
  }
  return true;
}

std::vector<PageRun> ServedPages::mark_placed(const PageRun& run) {
  mark(run, &Part::placed);
  Part& part = *part_of(run.start);
  const std::uint64_t before = part.start.value() / kPageSize;  // page numbers of the process
  const std::uint64_t first = before + (run.start - part.start) / kPageSize;
  const std::uint64_t last = first + run.pages;
  std::vector<PageRun> unneeded;
  for (std::uint64_t block = round_down(first, kBlockPages); block < last; block += kBlockPages) {
    const std::uint64_t from = std::max(block, before) - before;
    const std::uint64_t to = std::min(block + kBlockPages - before, part.pages);
    if (!all_placed(part, from, to)) continue;
    kernel::append_run(unneeded, {part.start + from * kPageSize, to - from});
  }
  return unneeded;
}

void ServedPages::leave_out(const PageRun& run) { mark(run, &Part::left_out); }

std::optional<PageRun> ServedPages::next_in(Part& part, std::uint64_t from, std::uint64_t to,
                                            std::uint64_t limit) {
  for (std::uint64_t page = from; page < to; ++page) {
    look_at(part, page);
    if (!part.present[page] || part.sent[page]) continue;
    std::uint64_t end = page + 1;
    for (; end < to && end - page < limit; ++end) {
      look_at(part, end);
      if (!part.present[end] || part.sent[end]) break;
    }
    return PageRun{part.start + page * kPageSize, end - page};
  }
  return std::nullopt;
}

std::optional<PageRun> ServedPages::next(RemotePtr at, std::uint64_t limit) {
  auto page_of = [at](const Part& part) {
    if (at <= part.start) return std::uint64_t{0};
    return std::min(part.pages, (at - part.start) / kPageSize);
  };
  for (Part& part : parts_) {
    if (auto run = next_in(part, page_of(part), part.pages, limit)) return run;
  }
  for (Part& part : parts_) {
    if (auto run = next_in(part, 0, page_of(part), limit)) return run;
  }
  return std::nullopt;
}

std::optional<ServedPages::Answer> ServedPages::answer(RemotePtr address, std::uint64_t limit) {
  Part* part = part_of(address);
  if (part == nullptr) {
    throw Error(Code::kCorrupt,
                fmt::format("a page at {:#x} is wanted, where none was left", address.value()));
  }
  const std::uint64_t page = (address - part->start) / kPageSize;
  look_at(*part, page);
  if (part->sent[page]) return std::nullopt;
  const bool present = part->present[page];
  std::uint64_t end = page + 1;
  // Not over the border of what was looked at: somebody waits.
  while (end < part->pages && end - page < limit && part->looked[end / kChunkPages] &&
         part->present[end] == present && !part->sent[end]) {
    ++end;
  }
  return Answer{{address, end - page}, present};
}

}  // namespace telefork::migrate
