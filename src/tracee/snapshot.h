// A copy-on-write copy of a stopped process, from which its memory is read while it runs on.
//
//     Stub stub(frozen.leader(), pid, {});
//     Snapshot snapshot(stub);
//     stub.remove();                     // the process goes on
//     ... read /proc/SNAPSHOT/mem ...
//     snapshot.end();                    // a zombie is left
//     reap_snapshot(pid, snapshot.id()); // which only its parent can reap
//
// It is cloned by the process itself, inside the stub, and is traced from its first instruction on
// (CLONE_PTRACE). It never runs the program: what it has to do is the stub's next steps, by which
// it lets go of all descriptors, so that nobody waits for the end of a pipe because of it.
//
//   it           close_range | stops here ... | exit_group      (undo: if its tracer dies)
//   the process  clone | stops here, and is removed | wait4     (undo, until the stub is removed)
//
// Its exit signal is 0: the process gets no SIGCHLD, and a wait(2) that does not ask for such
// children (__WALL, __WCLONE) does not see it. If the tracer dies it ends at once; when the stub
// was gone by then its zombie stays until somebody calls reap_snapshot().
//
// Owned by the thread that traces the process.
#pragma once

#include <cstdint>
#include <optional>

#include <sys/types.h>

#include "tracee/stub.h"
#include "tracee/thread.h"

namespace telefork::tracee {

// One that outlives its tracer as a zombie.
struct SnapshotId {
  pid_t pid = 0;            // as we see it
  pid_t own_pid = 0;        // as the process does
  std::uint64_t start = 0;  // its start time: the number alone may be another's
};

class Snapshot {
 public:
  // All of the process is frozen.
  explicit Snapshot(Stub& stub);
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  ~Snapshot();

  pid_t pid() const { return id_.pid; }
  const SnapshotId& id() const { return id_; }
  // Kills it and waits for that, as its tracer.
  void end();

 private:
  void let_go_of_descriptors(const Stub& stub);

  SnapshotId id_;
  std::optional<TracedThread> thread_;
};

// What has ended. By the process itself, which is stopped for it. No effect where it was reaped, or
// the process is gone.
void reap_snapshot(pid_t process, const SnapshotId& snapshot);
// The same in a stub that is in place.
void reap_snapshot(Stub& stub, const SnapshotId& snapshot);

}  // namespace telefork::tracee
