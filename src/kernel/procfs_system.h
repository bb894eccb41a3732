// Facts about the machine: mounts and the settings that decide what telefork may do here. A
// setting whose file the kernel does not have is the value that its absence means. See procfs.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace telefork::kernel {

// A line of /proc/PID/mountinfo.
struct MountInfo {
  int mount_id = 0;
  int parent_id = 0;
  unsigned dev_major = 0;  // st_dev of the files in it, btrfs subvolumes aside
  unsigned dev_minor = 0;
  std::string root;         // which folder of the filesystem is mounted: not "/" for a bind mount
  std::string mount_point;  // in the process's root
  std::string options;
  std::string filesystem;  // "ext4", "nfs4", "overlay"
  std::string source;      // "server:/export", "/dev/vda"
  std::string super_options;
};
std::vector<MountInfo> parse_mountinfo(std::string_view text, std::string_view what = "mountinfo");
std::vector<MountInfo> read_mountinfo(pid_t pid);
// The same as this process calls them: the kernel tells the mounts below that process's root alone,
// and their points as they are in there. Those of this process where both are in one namespace.
std::vector<MountInfo> read_mounts_of(pid_t pid);
// FdInfo::mount_id to its mount; empty where it is not mounted in that process's namespace.
std::optional<MountInfo> find_mount(const std::vector<MountInfo>& mounts, int mount_id);

// A random name of this boot of this kernel, the same in every container: "2f9c0d2e-....".
std::string read_boot_id();
// "6.18.44-amd64"
std::string kernel_release();
struct KernelVersion {
  unsigned major = 0;
  unsigned minor = 0;
  auto operator<=>(const KernelVersion&) const = default;
};
KernelVersion parse_kernel_version(std::string_view release);

// One more than the highest pid.
std::uint64_t read_pid_max();
std::uint64_t read_max_map_count();
// vm.unprivileged_userfaultfd: whoever has no CAP_SYS_PTRACE may be told of the kernel's faults
// too.
bool read_unprivileged_userfaultfd();
// How many of them telefork has for itself in a process that it works on: the stub's, and what is
// split for an instant.
inline constexpr std::size_t kOwnMappings = 16;
std::uint64_t read_mmap_min_addr();

// How many processes the kernel has killed since boot for want of memory, of a cgroup or of the
// machine (proc(5), /proc/vmstat); 0 before Linux 4.13.
std::uint64_t read_out_of_memory_kills();

// Of the machine (proc(5), /proc/meminfo).
struct MemoryInfo {
  std::uint64_t total_kb = 0;
  std::uint64_t available_kb = 0;  // MemAvailable: without swapping
};
MemoryInfo parse_memory_info(std::string_view text);
MemoryInfo read_memory_info();

enum class Overcommit { kHeuristic = 0, kAlways = 1, kNever = 2 };
Overcommit read_overcommit();

// Yama: 0 any own process, 1 descendants and those that call PR_SET_PTRACER, 2 CAP_SYS_PTRACE
// only, 3 nobody; 0 without Yama.
int read_ptrace_scope();

// What an unprivileged process may do: the limit, and Debian's and Ubuntu's own switches, which
// forbid nothing where they are missing. See pid_space.h.
std::uint64_t read_max_user_namespaces();
bool read_unprivileged_userns_clone();
bool read_apparmor_restricts_userns();
// vm.unprivileged_userfaultfd: full userfaultfd(2) without CAP_SYS_PTRACE.
bool read_unprivileged_userfaultfd_allowed();

// Pages of hugetlb of one size (Documentation/admin-guide/mm/hugetlbpage.rst).
struct HugePagePool {
  std::uint64_t free = 0;
  std::uint64_t reserved = 0;    // of the free ones, by who has mapped memory and not touched it
  std::uint64_t overcommit = 0;  // as many more may be made when they are asked for
  std::uint64_t surplus = 0;     // of those, made already
  // That who asks now may have, where the machine has memory for them.
  std::uint64_t available() const;
};
// `shift`: log2 of the bytes of a page. Empty: the kernel has none of that size.
std::optional<HugePagePool> try_read_huge_page_pool(unsigned shift);

enum class HugePagePolicy { kNever, kMadvise, kAlways };
// "always [madvise] never"
HugePagePolicy parse_huge_page_policy(std::string_view text, std::string_view what = "THP policy");
// kNever without transparent huge pages.
HugePagePolicy read_huge_page_policy();

}  // namespace telefork::kernel
