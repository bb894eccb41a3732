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
// One with the very memory of the process (Memory::kShared) can lend its pages, untraced. Who holds
// the other ends says in `control` which (ask_to_lend), and finds these pages in `pages`: they
// are not copied, and not made its own where it shares them with another process, as who reads them
// from outside does or pays for (docs/benchmarks.md).
//
//   it           read(control) | vmsplice(pages) or madvise | again ...  (until either is closed)
//
// No more may be asked for than there is room in the pipe: it ends when it cannot lend all of it.
//
// It drops what it is told to (try_ask_to_drop), and so does a copy that was made for that
// (Memory::kDroppable), which runs then, traced: a page that the process does not share any more is
// not copied when it writes there. What is dropped is to be private anonymous memory; it reads as
// zeros.
//
// Owned by the thread that traces the process.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "tracee/stub.h"
#include "tracee/thread.h"

namespace telefork::tracee {

// One that outlives its tracer as a zombie.
struct SnapshotId {
  pid_t pid = 0;            // as we see it
  pid_t own_pid = 0;        // as the process does
  std::uint64_t start = 0;  // its start time: the number alone may be another's
};

// What it is told by `control`: a message each.
struct MemoryRequest {
  enum class Kind : std::uint64_t { kLend = 1, kDrop = 2 };
  Kind kind;
  std::uint64_t address;
  std::uint64_t size;
};
// Asks who lends. Throws kGone where it has ended.
void ask_to_lend(int control, RemotePtr address, std::uint64_t size);
// False where it has not heard of what it was told before, or has ended.
bool try_ask_to_drop(int control, RemotePtr address, std::uint64_t size);

// Our ends, and the numbers in the process of those that are to be the snapshot's.
struct Lending {
  UniqueFd control;  // a socket
  UniqueFd pages;    // a pipe
  int their_control = -1;
  int their_pages = -1;
};
// Made in the process; empty where it can have no more descriptors. It is to close what it has of
// them when there is a snapshot.
std::optional<Lending> try_open_lending(Stub& stub);

class Snapshot {
 public:
  enum class Memory {
    kCopied,     // copy-on-write
    kDroppable,  // the same, and it drops what it is told to
    // The very same: it keeps the memory when the process executes another program. The process is
    // to ignore SIGCHLD by then, so that of its end nothing is left (wait(2)).
    kShared,
  };
  // All of the process is frozen.
  // `farewell`: what else the process is to do before it goes on, if its tracer dies
  // (Stub::set_farewell).
  explicit Snapshot(Stub& stub, Memory memory = Memory::kCopied, const Lending* lending = nullptr,
                    const SyscallProgram* farewell = nullptr);
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  ~Snapshot();

  pid_t pid() const { return id_.pid; }
  const SnapshotId& id() const { return id_; }
  // Where one that is kDroppable is told; ours alone. Empty where it could have no socket.
  UniqueFd take_control() { return std::move(control_); }
  // Kills it and waits for that.
  void end();

 private:
  void let_go_of_descriptors(const Stub& stub);
  void begin_to_listen(const SyscallProgram& steps, Data sockets, RemotePtr program);

  SnapshotId id_;
  std::optional<TracedThread> thread_;
  UniqueFd lender_;   // its pidfd, untraced
  UniqueFd control_;  // of one that is kDroppable
};

// Of a child of some process: a copy of that, which is no part of what the process does.
bool is_snapshot(pid_t pid);

// What has ended. By the process itself, which is stopped for it. No effect where it was reaped, or
// the process is gone.
void reap_snapshot(pid_t process, const SnapshotId& snapshot);
// The same in a stub that is in place.
void reap_snapshot(Stub& stub, const SnapshotId& snapshot);

}  // namespace telefork::tracee
