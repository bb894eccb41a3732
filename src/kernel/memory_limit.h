// How much memory this process may use: the machine's, or what a memory cgroup that it is in leaves
// of it, by the least of all limits above it.
//
// Of a cgroup (v2, Documentation/admin-guide/cgroup-v2.rst): memory.max, memory.current, and what
// of that is clean cache and goes as soon as somebody wants it, inactive_file of memory.stat. Of
// one of v1 (cgroup-v1/memory.rst): memory.limit_in_bytes, memory.usage_in_bytes,
// total_inactive_file.
#pragma once

#include <string>
#include <string_view>

#include "kernel/procfs_system.h"

namespace telefork::kernel {

// Throws kOs where /proc cannot be read. What cannot be read of a cgroup limits nothing.
MemoryInfo read_memory_for_us();

// `root`: where a hierarchy is mounted; `path` as in /proc/PID/cgroup; `version`: 1 or 2.
MemoryInfo limit_by_cgroup(MemoryInfo info, const std::string& root, std::string_view path,
                           int version);

}  // namespace telefork::kernel
