// Between two run_on with Options::repeat: which pages of the program the node has as they are
// here, so that the next call need not look at them.
//
//   a call ends     the node says what it has kept, and under which token
//                   RepeatWatch::remember()     those pages are there as here, as far as nothing
//                                               writes to them: the kernel watches (WriteWatch)
//                   pack() --> the agent        which holds it while no session does
//   the next one    RepeatWatch::unpack()
//                   clean(map)                  what still is as it is there
//                   protect(map)                from now on again; the program stands still
//
// Of anonymous memory in mappings of 1 MB and more; the rest always goes. The program pays a fault
// for its first write to a page after a call, and huge pages that it writes to are split. All that
// ends, and nothing is left in the program, when its last descriptor is closed.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "kernel/pagemap.h"
#include "kernel/procfs_maps.h"
#include "kernel/write_watch.h"

namespace telefork::session {

class RepeatWatch {
 public:
  // Two descriptors, as the agent has it between two calls.
  struct Packed {
    UniqueFd userfaultfd;
    UniqueFd known;  // a memory file
  };

  // `userfaultfd`: made by the program, and not asked anything yet. Throws kUnsupported where this
  // kernel cannot watch.
  RepeatWatch(pid_t program, kernel::PageMapAbi abi, UniqueFd userfaultfd);
  // kCorrupt where it is anything else.
  static RepeatWatch unpack(pid_t program, kernel::PageMapAbi abi, Packed packed);
  Packed pack() const;

  // Which mappings are watched.
  static bool is_worth_watching(const kernel::Vma& vma);

  // What `node` has kept, and calls by this name; empty: nothing is known of it.
  std::span<const std::byte> token_of(const std::string& node) const;
  // What of it is here as it is there; rising. The program stands still.
  std::vector<kernel::PageRun> clean(const std::vector<kernel::Vma>& map) const;
  // All of them, from now on; likewise.
  void protect(const std::vector<kernel::Vma>& map) const;
  void remember(std::string node, std::vector<std::byte> token, std::vector<kernel::PageRun> pages);
  // For whom the program is to ask the kernel (restore/homecoming.h).
  int userfaultfd() const { return watch_.fd(); }

 private:
  RepeatWatch(pid_t program, kernel::PageMapAbi abi, kernel::WriteWatch watch)
      : map_(program, abi), watch_(std::move(watch)) {}

  kernel::PageMap map_;
  kernel::WriteWatch watch_;
  std::string node_;
  std::vector<std::byte> token_;
  std::vector<kernel::PageRun> pages_;  // rising
};

}  // namespace telefork::session
