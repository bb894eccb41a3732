// The node's side of a run_on: what has to be known of its guest to send it home again, and the
// sending.
//
//     Homebound homebound(...);                // the guest is whole, and was not released yet
//     homebound.watch_writes(stub);
//     ... it runs; its session socket is readable, receive_snapshot() ...
//     homebound.freeze(caller);                // it does not run here again
//     ... its output goes home ...
//     homebound.send(link);
//
// Owned by the keeper, whose child and tracee the guest is; it ends with the keeper.
#pragma once

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "abi/agent.h"
#include "capture/capture.h"
#include "capture/origins.h"
#include "capture/page_hashes.h"
#include "capture/survey.h"
#include "kernel/write_watch.h"
#include "protocol/link.h"
#include "restore/files.h"
#include "restore/restorer.h"
#include "session/following.h"
#include "tracee/freezer.h"
#include "tracee/stub.h"

namespace telefork::session {

// For `telefork ps`.
std::string change_finder_name(protocol::schema::ChangeFinder finder);

class Homebound {
 public:
  // `following` lives longer. `session_number` is what the guest calls its session socket;
  // `streams` are the inodes of the pipes that are its stdout and stderr, and stdin where it has
  // one.
  Homebound(pid_t guest, int session_number, std::map<unsigned, std::uint64_t> streams,
            const restore::Restorer& restorer, kernel::PageMapAbi abi, Following* following)
      : guest_(guest),
        session_number_(session_number),
        streams_(std::move(streams)),
        files_(restorer.arrived_files()),
        origins_(guest, restorer.files()),
        abi_(abi),
        following_(following) {}

  // From now on. Where this kernel cannot watch, the guest's pages are read and hashed now, and
  // again when it goes home.
  void watch_writes(tracee::Stub& stub);
  protocol::schema::ChangeFinder change_finder() const {
    return watch_ ? protocol::schema::ChangeFinder::WRITE_PROTECTION
                  : protocol::schema::ChangeFinder::HASHES;
  }

  // The thread `caller` of the guest waits in its read(). Throws what is in the way of its return.
  void freeze(const telefork_snapshot& caller);
  // Its image. Throws all refusals at once.
  void send(protocol::Link& link, image::schema::Machine::Reader here);
  // When that is done: what it wrote to or lost of its private memory, rising.
  const std::vector<kernel::PageRun>& changed() const { return changed_; }

 private:
  using Place = std::pair<RemotePtr, RemotePtr>;  // start and end of a VMA
  using Changes = std::map<Place, capture::ChangedPages>;

  void make_watch(tracee::Stub& stub);
  void check_readable() const;
  void begin_to_look();
  void place_stub();
  capture::ChangedPages find_changes(const kernel::Vma& vma) const;
  Changes find_all_changes(const std::vector<kernel::Vma>& map) const;
  capture::ChangedPages changes_of(const capture::Mapping& mapping);
  capture::ChangedPages take_changes_of(const capture::Mapping& mapping);

  pid_t guest_;
  int session_number_;
  std::map<unsigned, std::uint64_t> streams_;
  restore::ArrivedFiles files_;
  capture::Origins origins_;
  kernel::PageMapAbi abi_;
  Following* following_;  // null: all of its memory came with it
  std::unique_ptr<kernel::WriteWatch> watch_;
  std::unique_ptr<capture::PageHashes> hashes_;  // or these
  // Of a large guest they are looked for beside the rest.
  std::future<Changes> finding_changes_;
  Changes changes_;
  std::vector<kernel::PageRun> changed_;
  std::vector<kernel::Vma> map_;                   // of a large one too
  std::map<std::string, std::string> namespaces_;  // that it began in
  std::optional<tracee::FrozenProcess> frozen_;
  std::optional<tracee::Stub> stub_;
  telefork_snapshot call_{};
};

}  // namespace telefork::session
