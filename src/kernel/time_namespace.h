// A time namespace with offsets of one's choice: time_namespaces(7), Linux 5.6.
#pragma once

#include <string_view>

namespace telefork::kernel {

// Makes one and takes the calling process into it, which must have one thread. `offsets` is what
// format_timens_offsets() gives. 0, or an errno: EPERM without CAP_SYS_ADMIN and CAP_SYS_TIME,
// EINVAL from a kernel without, ERANGE where a clock would be negative; then its clocks are as
// before. Nothing but system calls: may be called between fork and exec.
int enter_time_namespace(std::string_view offsets);
// For another process to do the same by system calls of its own: unshare(2), the offsets, setns(2).
constexpr const char* kOwnTimeOffsetsPath = "/proc/self/timens_offsets";
constexpr const char* kChildrensTimeNamespacePath = "/proc/self/ns/time_for_children";

}  // namespace telefork::kernel
