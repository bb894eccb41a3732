#include "kernel/procfs_system.h"

#include <algorithm>

#include <sys/utsname.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/procfs_file.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

constexpr std::size_t kMaxMounts = 1 << 20;

std::string next_escaped_word(TextScanner& scanner) {
  std::string word = unescape_octal(scanner.word());
  scanner.skip_blanks();
  return word;
}

// Some filesystems give an empty source, which leaves nothing between two blanks.
std::string take_source(TextScanner& scanner) {
  if (scanner.try_skip(" ")) return {};
  return next_escaped_word(scanner);
}

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue
MountInfo parse_mount(TextScanner& scanner) {
  MountInfo mount;
  mount.mount_id = scanner.integer();
  scanner.expect(' ');
  mount.parent_id = scanner.integer();
  scanner.expect(' ');
  mount.dev_major = static_cast<unsigned>(scanner.integer());
  scanner.expect(':');
  mount.dev_minor = static_cast<unsigned>(scanner.integer());
  scanner.expect(' ');
  mount.root = next_escaped_word(scanner);
  mount.mount_point = next_escaped_word(scanner);
  mount.options = next_escaped_word(scanner);
  while (!scanner.try_skip("- ")) next_escaped_word(scanner);  // propagation, any number of them
  mount.filesystem = unescape_octal(scanner.word());
  scanner.expect(' ');
  mount.source = take_source(scanner);
  mount.super_options = scanner.rest_of_line();
  return mount;
}

std::uint64_t read_setting(const std::string& path, std::uint64_t when_absent) {
  std::string text = try_read_system_file(path);
  return text.empty() ? when_absent : parse_decimal(text, path);
}

}  // namespace

std::vector<MountInfo> parse_mountinfo(std::string_view text, std::string_view what) {
  std::vector<MountInfo> mounts;
  TextScanner scanner(text, what);
  while (!scanner.at_end()) {
    if (mounts.size() == kMaxMounts) scanner.fail("fewer mounts");
    mounts.push_back(parse_mount(scanner));
  }
  return mounts;
}

std::vector<MountInfo> read_mountinfo(pid_t pid) {
  return parse_mountinfo(read_proc_file(pid, "mountinfo"), fmt::format("mountinfo of {}", pid));
}

std::vector<MountInfo> read_mounts_of(pid_t pid) {
  if (read_ns_link(pid, "mnt") == read_ns_link(::getpid(), "mnt")) {
    return read_mountinfo(::getpid());
  }
  std::vector<MountInfo> mounts = read_mountinfo(pid);
  const std::string root = read_root_link(pid);
  if (root == "/") return mounts;
  for (MountInfo& mount : mounts) {
    mount.mount_point = mount.mount_point == "/" ? root : root + mount.mount_point;
  }
  return mounts;
}

std::optional<MountInfo> find_mount(const std::vector<MountInfo>& mounts, int mount_id) {
  for (const MountInfo& mount : mounts)
    if (mount.mount_id == mount_id) return mount;
  return std::nullopt;
}

std::string read_boot_id() {
  return std::string(trim(read_system_file("/proc/sys/kernel/random/boot_id")));
}

std::string kernel_release() {
  utsname names{};
  if (::uname(&names) != 0) throw_errno("asking for the kernel's release");
  return names.release;
}

KernelVersion parse_kernel_version(std::string_view release) {
  TextScanner scanner(release, "kernel release");
  int major = scanner.integer();
  scanner.expect('.');
  int minor = scanner.integer();
  if (major < 0 || minor < 0) scanner.fail("a positive version");
  return {.major = static_cast<unsigned>(major), .minor = static_cast<unsigned>(minor)};
}

std::uint64_t read_pid_max() { return read_setting("/proc/sys/kernel/pid_max", 32768); }
std::uint64_t read_max_map_count() { return read_setting("/proc/sys/vm/max_map_count", 65530); }
bool read_unprivileged_userfaultfd() {
  return read_setting("/proc/sys/vm/unprivileged_userfaultfd", 0) != 0;
}
std::uint64_t read_mmap_min_addr() { return read_setting("/proc/sys/vm/mmap_min_addr", 0); }

std::uint64_t read_out_of_memory_kills() {
  const std::string text = try_read_system_file("/proc/vmstat");
  TextScanner scanner(text, "vmstat");
  while (!scanner.at_end()) {
    if (scanner.try_skip("oom_kill ")) return scanner.decimal();
    scanner.rest_of_line();
  }
  return 0;
}

MemoryInfo parse_memory_info(std::string_view text) {
  MemoryInfo info;
  TextScanner scanner(text, "meminfo");
  while (!scanner.at_end()) {
    std::uint64_t* value = scanner.try_skip("MemTotal:")       ? &info.total_kb
                           : scanner.try_skip("MemAvailable:") ? &info.available_kb
                                                               : nullptr;
    if (value != nullptr) {
      scanner.skip_blanks();
      *value = scanner.decimal();
    }
    scanner.rest_of_line();
  }
  return info;
}

MemoryInfo read_memory_info() { return parse_memory_info(read_system_file("/proc/meminfo")); }

Overcommit read_overcommit() {
  std::uint64_t value = read_setting("/proc/sys/vm/overcommit_memory", 0);
  if (value > 2) throw Error(Code::kUnsupported, fmt::format("vm.overcommit_memory={}", value));
  return static_cast<Overcommit>(value);
}

int read_ptrace_scope() {
  return static_cast<int>(read_setting("/proc/sys/kernel/yama/ptrace_scope", 0) & 3);
}

// A kernel without the file has no user namespaces.
std::uint64_t read_max_user_namespaces() {
  return read_setting("/proc/sys/user/max_user_namespaces", 0);
}
bool read_unprivileged_userns_clone() {
  return read_setting("/proc/sys/kernel/unprivileged_userns_clone", 1) != 0;
}
bool read_apparmor_restricts_userns() {
  return read_setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) != 0;
}

bool read_unprivileged_userfaultfd_allowed() {
  return read_setting("/proc/sys/vm/unprivileged_userfaultfd", 0) != 0;
}

std::uint64_t HugePagePool::available() const {
  const std::uint64_t unmade = overcommit - std::min(overcommit, surplus);
  return free + unmade - std::min(free + unmade, reserved);
}

std::optional<HugePagePool> try_read_huge_page_pool(unsigned shift) {
  const std::string folder =
      fmt::format("/sys/kernel/mm/hugepages/hugepages-{}kB/", (std::uint64_t{1} << shift) / 1024);
  if (try_read_system_file(folder + "free_hugepages").empty()) return std::nullopt;
  return HugePagePool{read_setting(folder + "free_hugepages", 0),
                      read_setting(folder + "resv_hugepages", 0),
                      read_setting(folder + "nr_overcommit_hugepages", 0),
                      read_setting(folder + "surplus_hugepages", 0)};
}

HugePagePolicy parse_huge_page_policy(std::string_view text, std::string_view what) {
  for (std::string_view word : split_words(text)) {
    if (word == "[always]") return HugePagePolicy::kAlways;
    if (word == "[madvise]") return HugePagePolicy::kMadvise;
    if (word == "[never]") return HugePagePolicy::kNever;
  }
  TextScanner(text, what).fail("[always], [madvise] or [never]");
}

HugePagePolicy read_huge_page_policy() {
  std::string text = try_read_system_file("/sys/kernel/mm/transparent_hugepage/enabled");
  return text.empty() ? HugePagePolicy::kNever : parse_huge_page_policy(text);
}

}  // namespace telefork::kernel
