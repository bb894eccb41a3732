#include "kernel/memory_limit.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>

#include "kernel/proc_file.h"

namespace telefork::kernel {
namespace {

struct Files {
  std::string_view most, used, cache;
};
constexpr Files kFiles[] = {
    {"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file "},
    {"/memory.max", "/memory.current", "inactive_file "},
};

// Empty: there is none, as where it is the word `max`.
std::optional<std::uint64_t> number_at(std::string_view text) {
  std::uint64_t value = 0;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end.ec != std::errc()) return std::nullopt;
  return value;
}

std::string read_file(const std::string& folder, std::string_view name) {
  return try_read_system_file(folder + std::string(name));
}

std::uint64_t cache_of(const std::string& folder, std::string_view name) {
  const std::string text = "\n" + read_file(folder, "/memory.stat");
  const auto at = text.find("\n" + std::string(name));
  if (at == std::string::npos) return 0;
  return number_at(std::string_view(text).substr(at + 1 + name.size())).value_or(0);
}

void limit_by(MemoryInfo& info, const std::string& folder, const Files& files) {
  const std::string text = read_file(folder, files.most);
  const std::optional<std::uint64_t> most = number_at(text);
  // Without a limit v1 has a number that no machine reaches.
  if (!most) return;
  const std::uint64_t used = number_at(read_file(folder, files.used)).value_or(0);
  const std::uint64_t kept = used - std::min(used, cache_of(folder, files.cache));
  info.total_kb = std::min(info.total_kb, *most / 1024);
  info.available_kb = std::min(info.available_kb, (*most - std::min(*most, kept)) / 1024);
}

}  // namespace

MemoryInfo limit_by_cgroup(MemoryInfo info, const std::string& root, std::string_view path,
                           int version) {
  // It lies outside of what this process can see.
  if (path.find("/..") != std::string_view::npos) path = {};
  for (;;) {
    while (path.ends_with('/')) path.remove_suffix(1);
    limit_by(info, root + std::string(path), kFiles[version - 1]);
    if (path.empty()) return info;
    path = path.substr(0, path.rfind('/'));
  }
}

MemoryInfo read_memory_for_us() {
  MemoryInfo info = read_memory_info();
  const std::string text = try_read_system_file("/proc/self/cgroup");
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const auto list = line.find(':');
    const auto path = line.find(':', list + 1);
    if (list == std::string_view::npos || path == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(list + 1, path - list - 1);
    if (controllers.empty()) {
      info = limit_by_cgroup(info, "/sys/fs/cgroup", line.substr(path + 1), 2);
    } else if (controllers == "memory") {
      info = limit_by_cgroup(info, "/sys/fs/cgroup/memory", line.substr(path + 1), 1);
    }
  }
  return info;
}

}  // namespace telefork::kernel
