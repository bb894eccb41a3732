// What a process has changed of its memory, where the kernel cannot watch it being written to
// (kernel/write_watch.h): by the hashes of its pages before and after.
//
//     PageHashes hashes(pid, abi);
//     hashes.begin(vma);                       // of each private mapping, rising; all is read
//     ... it runs, and is stopped ...
//     ChangedPages changed = hashes.changed(vma);  // all is read again
//
// XXH3-128, 16 bytes a page; it is no match for a forger, who here would deceive himself. A page
// that cannot be read is a guard page, which counts as one without content. The caller may open
// /proc/PID/mem: it traces the process, or might.
#pragma once

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "kernel/pagemap.h"
#include "kernel/procfs_maps.h"

namespace telefork::capture {

struct ChangedPages {
  std::vector<kernel::PageRun> written;  // and there
  std::vector<kernel::PageRun> dropped;
};

class PageHashes {
 public:
  PageHashes(pid_t pid, kernel::PageMapAbi abi);

  void begin(const kernel::Vma& vma);
  // Also of a mapping that is new, or was resized or moved: what lies there now, against what lay
  // there then.
  ChangedPages changed(const kernel::Vma& vma) const;

 private:
  using Hash = std::array<std::byte, 16>;
  struct Page {
    RemotePtr at;
    Hash hash;
  };

  // Those that `vma` has of its own.
  std::vector<Page> read_pages(const kernel::Vma& vma) const;

  kernel::PageMap map_;
  UniqueFd memory_;
  std::vector<Page> before_;  // rising
};

}  // namespace telefork::capture
