// Which pages of a process have not come yet, and whose they are at the source: addresses there are
// those at which the process had them when it left, wherever it has moved them since.
//
//     MissingPages missing;
//     missing.add(start, pages);              // all of it lies where it lay
//     missing.source_of(at)                   // what to ask for when somebody waits at `at`
//     missing.take(source, pages, place)      // they have come: calls place(at, source, pages)
//     missing.move(from, to, size)            // mremap(2)
//     missing.forget(start, end)              // dropped, or unmapped: zeros from now on
//
// Pure. A bit a page: 32 KB a GB.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "base/remote_ptr.h"
#include "kernel/pagemap.h"

namespace telefork::migrate {

class MissingPages {
 public:
  // Adds pages where none are known.
  void add(RemotePtr start, std::uint64_t pages);
  // Of whole pages; what is not missing there is passed over.
  void forget(RemotePtr start, RemotePtr end);
  void move(RemotePtr from, RemotePtr to, std::uint64_t size);

  // Where the page at `at` is at the source; empty: it is not missing.
  std::optional<RemotePtr> source_of(RemotePtr at) const;
  // Calls place(at, source, pages) for every run of missing pages that [source, source + pages) is
  // the content of; they are missing no more. In rising order of `at`.
  using Place = std::function<void(RemotePtr at, RemotePtr source, std::uint64_t pages)>;
  void take(RemotePtr source, std::uint64_t pages, const Place& place);

  // Pages at `at` that were taken, and could not be put in place yet.
  void put_back(RemotePtr at, std::uint64_t pages);
  // All others are zeros.
  void clear();

  // In [start, end), rising.
  std::vector<kernel::PageRun> runs(RemotePtr start, RemotePtr end) const;
  // At the source: those that lie elsewhere than they lay.
  std::vector<kernel::PageRun> moved_sources() const;
  // Whether anything there is, or was, missing; not what has been dropped or moved away.
  bool knows_any(RemotePtr start, RemotePtr end) const;
  std::uint64_t count() const { return count_; }

 private:
  struct Segment {
    RemotePtr source;
    std::vector<bool> missing;
    std::uint64_t left = 0;  // that are true
  };
  using Segments = std::map<RemotePtr, Segment>;
  static RemotePtr end_of(const Segments::value_type& segment);
  // So that a segment begins at `at`, where one reaches over it.
  void split(RemotePtr at);
  Segments::const_iterator segment_of(RemotePtr at) const;

  Segments segments_;
  std::uint64_t count_ = 0;
};

}  // namespace telefork::migrate
