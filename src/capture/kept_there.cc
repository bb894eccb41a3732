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
    if (run.start.value() % kPageSize != 0 || run.pages == 0 || run.pages > kMost - first ||
        run.start < end_ || hashes.size() / sizeof(Hash) < run.pages) {
      throw Error(Code::kCorrupt, "it tells of kept pages that cannot be");
    }
    end_ = run.end();
    const std::span<const std::byte> its = hashes.first(run.pages * sizeof(Hash));
    hashes = hashes.subspan(its.size());
    const kernel::PageRun known{run.start, std::min(run.pages, most_ - hashes_.size())};
    if (known.pages == 0) continue;
    runs_.push_back({known, hashes_.size()});
    hashes_.resize(hashes_.size() + known.pages);
    std::memcpy(hashes_.data() + runs_.back().first, its.data(), known.pages * sizeof(Hash));
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
