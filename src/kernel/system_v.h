// What the kernel has of System V shared memory (shmget(2)) in /proc.
#pragma once

namespace telefork::kernel {

// Who writes a number to it has the next segment of its ipc namespace made with that id, if it is
// free and the writer has CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE over it (shm_next_id in
// Documentation/admin-guide/sysctl/kernel.rst; CONFIG_CHECKPOINT_RESTORE). Id 0 is the first one of
// all: it cannot be asked for.
inline constexpr char kNextSegmentPath[] = "/proc/sys/kernel/shm_next_id";

}  // namespace telefork::kernel
