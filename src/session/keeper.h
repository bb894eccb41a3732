// The keeper: parent of one guest, its subreaper, and the node's end of its link.
//
//     telepad --fork, exec--> keeper --clone, exec--> blank process, which becomes the guest
//
// It restores the guest, keeps it stopped until go, then carries its streams, signals and status.
// It lasts until the last descendant of the guest has ended. When the link is lost or home is
// silent for longer than the lease, everything that descends from it is killed: nothing runs here
// that nobody at home knows of.
#pragma once

#include <cstdint>
#include <string>

#include "base/unique_fd.h"
#include "kernel/pagemap.h"
#include "kernel/probe.h"
#include "session/programs.h"
#include "session/steps.h"

namespace telefork::session {

struct KeeperSettings {
  UniqueFd control;      // the connection, greeted already
  UniqueFd control_out;  // its way out, where that is another descriptor
  UniqueFd telepad;      // from which the bulk connection comes (SCM_RIGHTS); empty: there is none
  UniqueFd guard;        // to the telepad: see guard_channel.h
  std::uint64_t keep_kb = 0;  // what it may keep of a guest; 0: nothing
  bool bulk_first = false;    // the bulk connection comes before anything else, and shakes hands
  bool resumes = false;       // its connections outlive a loss; with bulk_first
  std::string node;           // how to call the other end in messages
  std::string registry;       // see registry.h; empty: none
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  Programs programs;
  Steps steps;
};

// Returns when the session is over. What went wrong was told to the other end.
void run_keeper(KeeperSettings settings);

}  // namespace telefork::session
