// The descriptors of a process and the links of /proc/PID; and the paths below /proc that other
// layers hand to open(2), stat(2) or an injected execveat, so that none of them spells "/proc".
//
// A link's text is for people and for names that are not files ("pipe:[4711]", "anon_inode:..."):
// it is in the reader's own mount namespace as far as it can be, may end in " (deleted)", and may
// belong to another file by now. What is opened through fd_open_path() is always the very file.
// See procfs.h for the errors; a descriptor that is not open is an Error with ENOENT.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "kernel/procfs_maps.h"

namespace telefork::kernel {

// Open descriptors in ascending order.
std::vector<int> list_fds(pid_t pid);

std::string read_fd_link(pid_t pid, int fd);
std::string read_exe_link(pid_t pid);
std::string read_cwd_link(pid_t pid);
std::string read_root_link(pid_t pid);
// "net:[4026531833]"; `name` as in /proc/PID/ns: net, pid, mnt, user, uts, ipc, time, cgroup,
// pid_for_children, time_for_children. Equal texts are the same namespace. Where the kernel has no
// such namespace, the Error has ENOENT.
std::string read_ns_link(pid_t pid, std::string_view name);
// The namespace itself, for setns(2).
UniqueFd open_namespace(pid_t pid, std::string_view name);

// /proc/PID/fdinfo/FD.
struct FdInfo {
  std::int64_t position = 0;
  unsigned flags = 0;  // O_* as open(2) took them, O_CLOEXEC if the descriptor has it
  int mount_id = 0;    // for MountInfo
  std::uint64_t inode = 0;
  // What the kind of file adds ("eventfd-count: 1", "tfd: ...", "lock: ..."), a line each.
  std::vector<std::string> details;
};

FdInfo parse_fdinfo(std::string_view text, std::string_view what = "fdinfo");
FdInfo read_fdinfo(pid_t pid, int fd);

std::string proc_folder_path(pid_t pid);
std::string fd_open_path(pid_t pid, int fd);
std::string exe_path(pid_t pid);
std::string cwd_path(pid_t pid);
std::string root_path(pid_t pid);
// The root of the mount namespace that it is in, whatever its own root directory is (chroot(2)): a
// path in there is to be appended. Throws as read_root_link() does.
std::string base_path(pid_t pid);
std::string mem_path(pid_t pid);
std::string pagemap_path(pid_t pid);
std::string ns_path(pid_t pid, std::string_view name);
// The very file behind a mapping. open(2) of it needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in
// the initial user namespace: EPERM without.
std::string map_files_path(pid_t pid, const Vma& vma);
// A descriptor of the calling process.
std::string self_fd_path(int fd);

}  // namespace telefork::kernel
