// Where in a process the instructions lie that return from a signal handler. Every libc has them;
// as long as the dynamic linker has not mapped one, and in a program without one, there may be
// none. Then they can lie where a page of code has more than belongs to its file's segment: nobody
// uses that. They stay there.
#pragma once

#include <vector>

#include <sys/types.h>

#include "base/remote_ptr.h"
#include "kernel/procfs_maps.h"

namespace telefork::tracee {

// Of a process that runs: throws kRefused where they neither are nor could be.
void check_sigreturn_in(pid_t pid);
// In its libc first, then in everything else that is executable, else made by its tracer, which
// this thread is. Throws kRefused where that cannot be.
RemotePtr make_sigreturn_in(pid_t pid);
// The same where its map is known.
RemotePtr make_sigreturn_in(pid_t pid, const std::vector<kernel::Vma>& maps);

}  // namespace telefork::tracee
