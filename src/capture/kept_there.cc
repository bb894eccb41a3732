#include "capture/kept_there.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace telefork::capture {

void KeptThere::add(std::span<const kernel::PageRun> runs, std::span<const std::byte> hashes) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max() / kPageSize;
  for (const kernel::PageRun& run : runs) {
    const std::uint64_t first = run.start.value() / kPageSize;
    const bool rises = runs_.empty() || runs_.back().pages.end() <= run.start;
    if (run.start.value() % kPageSize != 0 || run.pages == 0 || run.pages > kMost - first ||
        !rises || hashes.size() / sizeof(Hash) < run.pages) {
      throw Error(Code::kCorrupt, "it tells of kept pages that cannot be");
    }
    runs_.push_back({run, hashes_.size()});
    const std::size_t bytes = run.pages * sizeof(Hash);
    hashes_.resize(hashes_.size() + run.pages);
    std::memcpy(hashes_.data() + runs_.back().first, hashes.data(), bytes);
    hashes = hashes.subspan(bytes);
  }
  if (!hashes.empty()) throw Error(Code::kCorrupt, "it tells of hashes of no kept page");
}

bool KeptThere::has(RemotePtr at, std::span<const std::byte> page) const {
  auto run = std::partition_point(runs_.begin(), runs_.end(),
                                  [at](const Run& one) { return one.pages.end() <= at; });
  if (run == runs_.end() || at < run->pages.start) return false;
  return hashes_[run->first + (at - run->pages.start) / kPageSize] == hash_.of(page);
}

}  // namespace telefork::capture
