// What the other end has kept of a process that was there before: the hashes of its pages as they
// were when it went home.
//
//     KeptThere there(secret);
//     there.add(runs, hashes); ...            // as they come, rising
//     there.has(address, page)                // it need not be sent
//
// Or, without any, which of its pages are there as they are here, from whoever has watched:
//
//     KeptThere there(runs);
//     there.clean()                           // they need not even be read
//
// Hashes under a secret that only the two ends know (image::SecretHash): no content that somebody
// else has made passes for another one. Read by several threads at once, once all has come.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "image/hash.h"
#include "kernel/pagemap.h"

namespace telefork::capture {

class KeptThere {
 public:
  using Hash = std::array<std::byte, 16>;

  // `most`: pages that are remembered; what is told beyond is not.
  KeptThere(const image::SecretHash::Secret& secret, std::uint64_t most)
      : hash_(secret), most_(most) {}

  // `clean` rises.
  explicit KeptThere(std::vector<kernel::PageRun> clean) : clean_(std::move(clean)) {}

  const std::vector<kernel::PageRun>& clean() const { return clean_; }
  // Behind all that came before. `hashes`: one after the other. Throws kCorrupt where they are
  // other than their runs need.
  void add(std::span<const kernel::PageRun> runs, std::span<const std::byte> hashes);
  bool empty() const { return hashes_.empty() && clean_.empty(); }
  bool has(RemotePtr at, std::span<const std::byte> page) const;

 private:
  struct Run {
    kernel::PageRun pages;
    std::size_t first;  // of its hashes
  };

  image::SecretHash hash_{{}};
  std::uint64_t most_ = 0;
  RemotePtr end_{0};  // of what was told
  std::vector<Run> runs_;
  std::vector<Hash> hashes_;
  std::vector<kernel::PageRun> clean_;
};

}  // namespace telefork::capture
