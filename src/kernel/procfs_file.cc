#include "kernel/procfs_file.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/error.h"
#include "base/file_io.h"
#include "kernel/proc_file.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

constexpr std::size_t kMaxDetails = 1 << 20;  // an epoll has a line for each of its targets

// False for a line of another key.
bool try_take_common(FdInfo& info, std::string_view key, std::string_view value,
                     std::string_view what) {
  if (key == "pos") return info.position = parse_signed_decimal(value, what), true;
  if (key == "mnt_id") return info.mount_id = TextScanner(trim(value), what).integer(), true;
  if (key == "ino") return info.inode = parse_decimal(value, what), true;
  if (key != "flags") return false;
  info.flags = static_cast<unsigned>(TextScanner(trim(value), what).octal());
  return true;
}

}  // namespace

std::vector<int> list_fds(pid_t pid) { return list_proc_numbers(pid, "fd"); }

std::string read_fd_link(pid_t pid, int fd) {
  return read_proc_link(pid, fmt::format("fd/{}", fd));
}
std::string read_exe_link(pid_t pid) { return read_proc_link(pid, "exe"); }
std::string read_cwd_link(pid_t pid) { return read_proc_link(pid, "cwd"); }
std::string read_root_link(pid_t pid) { return read_proc_link(pid, "root"); }
std::string read_ns_link(pid_t pid, std::string_view name) {
  return read_proc_link(pid, fmt::format("ns/{}", name));
}

UniqueFd open_namespace(pid_t pid, std::string_view name) {
  return open_file(proc_path(pid, fmt::format("ns/{}", name)), O_RDONLY);
}

FdInfo parse_fdinfo(std::string_view text, std::string_view what) {
  FdInfo info;
  TextScanner scanner(text, what);
  bool has_flags = false;
  while (!scanner.at_end()) {
    std::string_view line = scanner.rest_of_line();
    std::size_t colon = std::min(line.find(':'), line.size());
    std::string_view key = line.substr(0, colon);
    std::string_view value = line.substr(std::min(colon + 1, line.size()));
    // Details may use these keys again: an epoll target's line has " pos:" and " ino:" in it, but
    // begins with "tfd:"; inotify's begins with "inotify".
    if (try_take_common(info, key, value, what)) {
      has_flags = has_flags || key == "flags";
    } else {
      if (info.details.size() == kMaxDetails) scanner.fail("fewer lines");
      info.details.emplace_back(line);
    }
  }
  if (!has_flags) scanner.fail("flags before this");
  return info;
}

FdInfo read_fdinfo(pid_t pid, int fd) {
  return parse_fdinfo(read_proc_file(pid, fmt::format("fdinfo/{}", fd)),
                      fmt::format("fdinfo of descriptor {} of {}", fd, pid));
}

std::string proc_folder_path(pid_t pid) { return fmt::format("/proc/{}", pid); }
std::string fd_open_path(pid_t pid, int fd) { return proc_path(pid, fmt::format("fd/{}", fd)); }
std::string exe_path(pid_t pid) { return proc_path(pid, "exe"); }
std::string cwd_path(pid_t pid) { return proc_path(pid, "cwd"); }
std::string root_path(pid_t pid) { return proc_path(pid, "root"); }
// Who is outside of a root directory comes out of it by "..".
std::string base_path(pid_t pid) {
  std::string path = root_path(pid);
  const std::string root = read_root_link(pid);
  if (root == "/") return path;
  for (char letter : root) {
    if (letter == '/') path += "/..";
  }
  return path;
}
std::string mem_path(pid_t pid) { return proc_path(pid, "mem"); }
std::string pagemap_path(pid_t pid) { return proc_path(pid, "pagemap"); }
std::string ns_path(pid_t pid, std::string_view name) {
  return proc_path(pid, fmt::format("ns/{}", name));
}
std::string map_files_path(pid_t pid, const Vma& vma) {
  return proc_path(pid, fmt::format("map_files/{:x}-{:x}", vma.start.value(), vma.end.value()));
}
std::string self_fd_path(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

}  // namespace telefork::kernel
