// Who is away and who is a guest here: one small file a session, for `telefork ps`.
//
//     RegistryEntry entry(folder, {...});       // there while the session lasts
//     entry.update("away", ...)
//     for (const SessionInfo& info : list_sessions(folder)) ...
//
// The folder is a user's own (0700). A session holds a lock (flock(2)) on its file while it lives,
// so that also who sees it under another pid, or not at all, can tell: an agent that a guest in a
// pid namespace of its own has started registers here too. A file without a lock is left over from
// a session that was killed; whoever reaps it or kills it removes it, or else the next
// list_sessions() does. But for one of a process that is held here, whole: it stays, with what
// resume.h needs, as long as that waits.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "tracee/held_process.h"

namespace telefork::session {

struct HeldMember {
  tracee::HeldProcess process;
  int common_end = -1;  // of several: the descriptor that it has of it, see common_end.h
};

// What went is here too, whole, and nothing of it runs: until it is known how the other one fares.
struct Hold {
  std::vector<HeldMember> members;  // all that went together, the one that was asked for first
  bool without_end = false;         // no lease lets it go on
  std::string fence_key;            // see fence.h
  bool confirmed = false;           // nothing of it runs there: all of it may go on here
  // When it stopped here, by CLOCK_BOOTTIME: as it was then it is still.
  std::chrono::nanoseconds frozen_at{0};
  // Nobody has confirmed that, and the lease is over by which it does not run there any more.
  bool lease_over = false;
};

// CLOCK_BOOTTIME: also the time in which the machine slept.
std::chrono::nanoseconds time_since_boot();
// For how long what is held has stood still: what it has done there since is lost here.
std::chrono::nanoseconds time_lost(const Hold& hold);

// Whether any of it waits still.
bool is_held(const Hold& hold);
// The one of that number, alive; null: there is none.
const HeldMember* find_member(const Hold& hold, pid_t pid);

struct SessionInfo {
  std::string role;     // "away": its deputy is here; "guest": it runs here
  pid_t pid = 0;        // of the deputy, or of the guest
  pid_t guest_pid = 0;  // as the destination's telepad sees it; 0: not known yet
  std::string node;     // where it went to; of a guest: where it came from
  std::string state;    // "being sent", "away", "running" ...
  std::string command;
  std::string changes_found_by;  // see change_finder_name(); empty: it does not come back
  std::string mode;              // how its memory comes, or came: "eager", "lazy", "live"
  std::string mode_reason;       // why not lazily, where nobody has asked for eager
  bool follows = false;          // of what is away: memory of it is still on its way from here
  bool connection_lost = false;  // of what is away: nobody hears of it until there is another one
  // Of a guest whose memory follows it: pages that have not come, those that hold nothing among
  // them, that have come, how often it waited for one, and how long all together.
  std::uint64_t pages_missing = 0;
  std::uint64_t pages_came = 0;
  std::uint64_t faults = 0;
  std::uint64_t blocked_us = 0;
  std::uint64_t bytes = 0;
  // Of a run_on: what went with its image, and what of it the node had kept.
  std::uint64_t pages_sent = 0;
  std::uint64_t pages_kept = 0;
  std::vector<std::string> warnings;  // what is not as it was before
  // Those that its keeper has made for a guest, as the links in /proc/PID/ns name them.
  std::vector<std::string> namespaces;
  std::optional<Hold> hold;
  // Only listed:
  std::string call;   // where it can be called home (home_call.h); empty: it cannot
  std::string path;   // of its file
  pid_t session = 0;  // its session process, or its keeper
  bool left = false;  // that has ended, and left what is held
};

class RegistryEntry {
 public:
  // An empty folder registers nothing, and one without a role nothing yet.
  RegistryEntry(std::string folder, SessionInfo info);
  RegistryEntry(const RegistryEntry&) = delete;
  RegistryEntry& operator=(const RegistryEntry&) = delete;
  ~RegistryEntry();
  // Written whole and renamed: a reader sees the old one or the new one. A failure to write is not
  // the session's end: `telefork ps` shows less.
  void update(const SessionInfo& info);
  const SessionInfo& info() const { return info_; }
  void tell_connection(bool is_lost);
  // It stays when this object ends, as if its session had been killed.
  void leave();

 private:
  void write();

  std::string path_;
  UniqueFd file_;  // locked
  SessionInfo info_;
};

// The socket of a session process, beside its entry.
std::string call_path(const std::string& folder, pid_t process);

// Of a process of our pid namespace that has been reaped: what it left there if it was killed.
void forget_session(const std::string& folder, pid_t process);
// Of all that have ended, of whatever pid namespace.
void forget_ended_sessions(const std::string& folder);

// Of one that was left: it is the caller's alone then, as if this process were its session. Empty
// where somebody else has it, or just looks at it.
UniqueFd try_take_over(const std::string& path);

// Of one that was taken over: whoever takes it up after this process knows it too.
void note_confirmed(const std::string& path);

// Those of our pid namespace: the pids of others mean nothing here.
std::vector<SessionInfo> list_sessions(const std::vector<std::string>& folders);

}  // namespace telefork::session
