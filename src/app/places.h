// What every program of telefork decides from its environment: where sockets and state lie, and how
// an Error becomes an exit code.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernel/pagemap.h"
#include "session/steps.h"

namespace telefork::app {

// /run/telefork/telepad.sock for root, else below XDG_RUNTIME_DIR, else, where that is not set or
// no folder of this user's, in /tmp/telefork-UID.
std::string default_socket();
// Makes the folder of default_socket(). Throws kRefused where a plain user's is not his alone:
// anybody can make one in /tmp.
void make_runtime_folder();
// Why a plain user's is not below XDG_RUNTIME_DIR; empty: it is.
std::string why_replacement_folder();
// ~/.config/telefork, or in $XDG_CONFIG_HOME: this user's settings, key and known nodes.
std::string user_folder();
// Where a telepad of this user has its key and trusted_keys: /etc/telefork for root, else
// user_folder(), so that a plain user has one key for both.
std::string telepad_folder();
// Where sessions of this user are listed; made where it is missing. Empty where it cannot be had,
// for which make_runtime_folder() throws the reason.
std::string registry_folder();
// Where a telepad of root makes one more for each user that it serves, named by the user's id.
std::string user_registries();
// All those that this user may see: its own, and root sees everybody's.
std::vector<std::string> visible_registries();

// 2, 3, 4 and 5 where the code says so, 75 never, else 1.
int exit_code(const Error& error);
// Of what stood still, and runs on as if nothing had been.
inline constexpr int kUndone = 75;

// A reader that has gone (SIGPIPE) and a file size limit (SIGXFSZ) are errors of the write; ends of
// children are told (SIGCHLD), though the program may have been started with that signal ignored.
// For every program, at its start; whoever it starts is given other actions.
void set_own_signals();

// For tests: a process that stops itself (SIGSTOP) when it reaches the step of that name; empty:
// none. Throws kUsage for a name that is none.
session::Steps stop_at_step(const std::string& name);

// The fastest way to ask for pages on this kernel, by its version.
kernel::PageMapAbi best_pagemap_abi();
// For what an older kernel would do.
std::map<std::string, kernel::PageMapAbi> pagemap_names();

}  // namespace telefork::app
