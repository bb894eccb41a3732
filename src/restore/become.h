// The way back of a blank process that was found: it becomes what it was before.
#pragma once

#include <functional>

#include "restore/blank.h"
#include "tracee/syscall_program.h"
#include "tracee/thread.h"

namespace telefork::restore {

using MakeProgram = std::function<tracee::SyscallProgram(Blank&)>;

// It executes another program, which is the last step of what `make` gives, and stands still as
// that begins, traced with no options. `reap_others` is called while its other threads end. After
// an Error it is as it was, or has ended.
tracee::TracedThread become(Blank& blank, const MakeProgram& make,
                            const std::function<void()>& reap_others);

}  // namespace telefork::restore
