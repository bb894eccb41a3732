// A parked process (parked_process.h) that nobody traces any more: its tracer has died, or has left
// it. It waits out its lease, and goes on then; or as soon as it is released.
//
//     HeldProcess held = parked.held_process();     // to be written down
//     ... another process, later ...
//     if (is_parked(held)) try_release(held);
//
// Owned by nobody; try_release() traces it for an instant.
#pragma once

#include "base/remote_ptr.h"

namespace telefork::tracee {

struct HeldProcess {
  ProcessId process;
  int caller = 0;   // the thread that waits
  RemotePtr gate;   // see parked_process.h
  RemotePtr lease;  // a timespec
};

// Whether its gate is closed, traced or not. False where it has ended, is another program now, or
// goes on. Where this process may not look it is taken for parked as long as it lives.
bool is_parked(const HeldProcess& held);
// It goes on as if its lease were over. False where it is traced still: it may be asked again.
// Throws kGone where it has ended.
bool try_release(const HeldProcess& held);

}  // namespace telefork::tracee
