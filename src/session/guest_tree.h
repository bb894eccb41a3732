// Everything that descends from a keeper, which is its subreaper: the guest and what it started.
#pragma once

#include <vector>

#include <sys/types.h>

namespace telefork::session {

// Every living descendant of this process.
std::vector<pid_t> list_descendants();
// Without telefork's own processes, and what those have here: a guest that calls telefork has an
// agent, which ends with it.
std::vector<pid_t> list_guests();
// To every descendant; those that end meanwhile are no error.
void signal_descendants(int signal);
// Kills and reaps all of them; returns when none is left.
void kill_descendants();

}  // namespace telefork::session
