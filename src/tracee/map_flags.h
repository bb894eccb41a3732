// The memory map of a stopped process with its flags, without the walk of all its page tables that
// smaps (proc(5)) is: 30 ns a page.
//
//     std::vector<kernel::Vma> map = kernel::read_maps(pid);
//     Stub stub(frozen.leader(), pid, {});
//     read_flags(stub, map);
//
// A clone of the process is asked that has its mappings, and none of the pages of large ones
// (MADV_WIPEONFORK in madvise(2)).
#pragma once

#include <vector>

#include "kernel/procfs_maps.h"
#include "tracee/stub.h"

namespace telefork::tracee {

// Gives each of `map`, which was read before the stub came, what smaps tells beside sizes of what
// is resident; the flags of userfaultfd(2) are missing where a clone was asked. Where it cannot be
// made, or would not have all (MADV_DONTFORK, mlock(2)), smaps itself is read.
//
// Of large mappings the first page stays as it is, with the mapping's own flags; the rest keeps the
// flag, so this is for a process that does not run again.
void read_flags(Stub& stub, std::vector<kernel::Vma>& map);
// For one that may: the flag is taken away again, by the process itself where its tracer dies.
// `before`: its map with its flags, as it was when it ran. What has asked for the flag since loses
// it where its tracer dies just then.
void read_flags_of_running(Stub& stub, const std::vector<kernel::Vma>& before,
                           std::vector<kernel::Vma>& map);

}  // namespace telefork::tracee
