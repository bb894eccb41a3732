// Everything that descends from a keeper, which is its subreaper: the guest and what it started.
#pragma once

#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"

namespace telefork::session {

// Every living descendant of this process.
std::vector<pid_t> list_descendants();
// Without telefork's own processes, and what those have here: a guest that calls telefork has an
// agent, which ends with it.
std::vector<pid_t> list_guests();
// Or is it itself. Not, where one of those between them has ended.
bool descends_from(pid_t ancestor, pid_t pid);
// Kills every descendant; those that end meanwhile are no error. Telefork's own processes are
// killed only when nothing that descends from them lives: they have the userfaultfds of it
// (guard_channel.h), and without these it would find zeros where its memory has not come. To be
// called again as long as there is any.
struct Killing {
  std::vector<UniqueFd> dying;  // pidfds, readable when they have ended
  bool has_own = false;         // children or tracees of this process are among them
  bool spares = false;          // somebody, so far
};
Killing kill_descendants_once();
// Kills and reaps all of them; returns when none is left.
void kill_descendants();

}  // namespace telefork::session
