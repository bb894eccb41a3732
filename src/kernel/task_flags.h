// Bits of Stat::flags (procfs_task.h) that telefork looks at: include/linux/sched.h. proc(5) calls
// the field the kernel flags word; this one has been the same since Linux 2.6.
#pragma once

#include <cstdint>

namespace telefork::kernel {

// Its end is under way: it lets go of one thing after the other, and is no zombie yet.
constexpr std::uint64_t kPfExiting = 0x4;

}  // namespace telefork::kernel
