// The processes of a guest that came together, while they run: which of them a message of home's is
// for, and how each one fares. The first is the keeper's own child, which it waits for as ever; the
// others are watched (tracee/stop_watch.h), since their parents there wait for them.
//
//     GuestMembers members(pid, groups);
//     for (auto& watched : restorer.release_watched()) members.add(std::move(watched));
//     // waitpid() has given `status` of `pid`:
//     if (members.has(pid)) for (const GuestMembers::Change& change : members.take(pid, status))
//     ...
//
// What the terminal sends at home reaches every deputy that is in its foreground group there, and
// so each of these once. Who has begun since and has no deputy gets it from here: with that of one
// of those that were in the same group at home, the first one that is in his group now.
//
// Those of them that are moved on from here are lent to who moves them, and then stands for them
// (watch_loan.h): a process has one tracer. What happens to them it tells.
//
// Owned by the thread that let them run, their tracer.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "restore/tree_restorer.h"
#include "tracee/freezer.h"
#include "tracee/held_process.h"
#include "tracee/stop_watch.h"

namespace telefork::session {

// As waitpid(2) says it.
constexpr int stopped_by(int signal) { return signal << 8 | 0x7f; }
inline constexpr int kContinued = 0xffff;

class GuestMembers {
 public:
  struct Change {
    pid_t guest_pid;  // who, as it sees itself
    int status;       // as waitpid(2) has it
  };

  GuestMembers() = default;
  // `groups_before`: see TreeRestorer; empty where it came alone.
  GuestMembers(pid_t first, pid_t first_sees_itself, std::map<pid_t, pid_t> groups_before);
  void add(restore::TreeRestorer::Watched watched);

  // Whether it is one of those behind the first.
  bool has(pid_t pid) const { return watches_.count(pid) != 0 || lent_.count(pid) != 0; }
  bool is_stopped(pid_t pid) const;
  // Of one that is lent also what its borrower has seen.
  std::vector<Change> take(pid_t pid, int status);
  // Those that their tracer has lost: the first thread of one is another one since that one has
  // called exec (kernel/exec.c: de_thread). They are watched again; what has ended meanwhile is
  // told.
  std::vector<Change> find_lost();
  // For who looks into one of them, or into one that has come of them: as FrozenProcess::freeze(),
  // with PTRACE_O_EXITKILL. `changes` are what has happened up to then, also where it throws. It is
  // watched again after thaw(), if it was.
  tracee::FrozenProcess freeze(pid_t pid, const tracee::Patience& patience,
                               std::vector<Change>& changes);
  void thaw(tracee::FrozenProcess frozen);
  // What has happened to those that are not frozen.
  std::vector<Change> look();

  struct Lent {
    pid_t pid;
    bool stopped;
  };
  // Lets go of those of `tree` that it watches, as they are then. `changes`: up to then; where it
  // throws none is lent.
  std::vector<Lent> lend(const std::vector<pid_t>& tree, const tracee::Patience& patience,
                         std::vector<Change>& changes);
  bool is_lent(pid_t pid) const { return lent_.count(pid) != 0; }
  bool lends_any() const { return !lent_.empty(); }
  // Of one that is lent, and waits parked from now on.
  void note_held(const tracee::HeldProcess& held);
  // Whoever borrowed them is gone, or traces them no more: they are watched again, and what is not
  // as it was told is told. Returned are those to be tried again: one that is parked without him,
  // or that somebody else traces.
  std::vector<pid_t> take_back(const std::vector<pid_t>& pids, std::vector<Change>& changes);

  void forget_first() { pids_.erase(first_); }

  // As it is known here; 0: it has ended. `guest_pid` 0 is the first.
  pid_t find(pid_t guest_pid) const;
  // The process group of all of these, where no other one of them is in that, and none of ours;
  // else 0.
  pid_t group_of(const std::vector<pid_t>& pids) const;
  // Who is in it and has begun since.
  std::vector<pid_t> list_new_of_group(pid_t group) const;
  // A signal of the terminal's to `pid`, which is sent it besides: who else is to have it.
  std::vector<pid_t> list_others_of_group(pid_t pid) const;

 private:
  struct Place {
    pid_t guest_pid;
    pid_t group_before;
  };
  // Traced by somebody else, or by nobody.
  struct OnLoan {
    ProcessId id;
    bool stopped;
    std::optional<tracee::HeldProcess> held = {};
  };
  pid_t group_before(pid_t guest_pid) const;
  std::vector<Change> take_of_lent(pid_t pid, int status);
  bool try_watch_again(pid_t pid, tracee::ChangeWait& wait, std::vector<Change>& changes);
  void end(pid_t pid, int status, std::vector<Change>& changes);
  void add_changes(pid_t pid, const std::vector<tracee::StopWatch::Event>& events,
                   std::vector<Change>& changes);

  pid_t first_ = 0;
  std::map<pid_t, pid_t> groups_before_;
  std::map<pid_t, Place> pids_;  // of all that live, the first among them
  std::map<pid_t, tracee::StopWatch> watches_;
  std::map<pid_t, OnLoan> lent_;
};

// The namespaces that a guest's keeper, this process, has made for it (restore/pid_namespace.h), as
// the links in /proc/PID/ns name them. Before it runs: later it may have made others.
std::vector<std::string> list_made_namespaces(pid_t guest);

}  // namespace telefork::session
