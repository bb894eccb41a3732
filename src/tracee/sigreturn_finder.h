// Where in a process the instructions lie that return from a signal handler.
#pragma once

#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "kernel/procfs_maps.h"

namespace telefork::tracee {

// In its libc first, then in everything else that is executable. Throws kRefused where there are
// none: a program that could not return from a signal handler either.
RemotePtr find_sigreturn_in(pid_t pid);
// The same where its map is known.
RemotePtr find_sigreturn_in(pid_t pid, const std::vector<kernel::Vma>& maps);

}  // namespace telefork::tracee
