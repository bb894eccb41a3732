// Reading and writing whole files of /proc and /sys: the I/O under the parsers of procfs_*.h.
//
// A process may end between any two calls. Where a file of /proc/PID cannot be opened or read
// because of that, the Error is Code::kGone and names the pid; where the process is still there,
// and only this file, descriptor or kernel option is missing, the errno is passed on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace telefork::kernel {

// More than any text of /proc that a process of a million mappings has; what is longer is refused.
constexpr std::size_t kMaxProcFile = std::size_t{1} << 30;

// "/proc/PID/name". `name` may have slashes: "task/12/comm".
std::string proc_path(pid_t pid, std::string_view name);

std::string read_proc_file(pid_t pid, std::string_view name);
// In one write(2), as the kernel wants it.
void write_proc_file(pid_t pid, std::string_view name, std::string_view text);
// What the symbolic link points at.
std::string read_proc_link(pid_t pid, std::string_view name);
// The entries of a folder whose names are numbers, in ascending order.
std::vector<int> list_proc_numbers(pid_t pid, std::string_view name);

// The same for files that belong to no process; the path is absolute.
std::string read_system_file(const std::string& path);
// Empty where the file does not exist: options that a kernel may be built without.
std::string try_read_system_file(const std::string& path);
std::vector<int> list_numbers(const std::string& folder);

}  // namespace telefork::kernel
