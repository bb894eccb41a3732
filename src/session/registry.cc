#include "session/registry.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "kernel/procfs_task.h"

namespace telefork::session {
namespace {

constexpr std::size_t kMaxFile = 16 * 1024;

std::string without_newlines(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// One "key value" a line; a value has no newline, and only "warning" comes more than once.
std::string encode(const SessionInfo& info) {
  std::string text = fmt::format(
      "process {}\nstart {}\nrole {}\npid {}\nguest {}\nnode {}\nstate {}\nbytes {}\ncommand {}\n",
      info.process.pid, info.process.start_time, info.role, info.pid, info.guest_pid, info.node,
      info.state, info.bytes, without_newlines(info.command));
  for (const std::string& warning : info.warnings) {
    text += fmt::format("warning {}\n", without_newlines(warning));
  }
  return text;
}

template <class T>
T number(const std::map<std::string, std::string>& fields, const char* key) {
  auto found = fields.find(key);
  if (found == fields.end()) return 0;
  return static_cast<T>(std::strtoull(found->second.c_str(), nullptr, 10));
}

std::string text(const std::map<std::string, std::string>& fields, const char* key) {
  auto found = fields.find(key);
  return found == fields.end() ? "" : found->second;
}

SessionInfo decode(const std::string& content) {
  std::map<std::string, std::string> fields;
  SessionInfo info;
  for (std::size_t at = 0; at < content.size();) {
    std::size_t end = std::min(content.find('\n', at), content.size());
    std::string line = content.substr(at, end - at);
    std::size_t space = line.find(' ');
    at = end + 1;
    if (space == std::string::npos) continue;
    std::string value = line.substr(space + 1);
    if (line.starts_with("warning ")) {
      info.warnings.push_back(std::move(value));
    } else {
      fields[line.substr(0, space)] = std::move(value);
    }
  }
  info.process = {number<pid_t>(fields, "process"), number<std::uint64_t>(fields, "start")};
  info.role = text(fields, "role");
  info.pid = number<pid_t>(fields, "pid");
  info.guest_pid = number<pid_t>(fields, "guest");
  info.node = text(fields, "node");
  info.state = text(fields, "state");
  info.bytes = number<std::uint64_t>(fields, "bytes");
  info.command = text(fields, "command");
  return info;
}

std::string read_small_file(const std::string& path) {
  UniqueFd file = open_file(path, O_RDONLY);
  std::string content(kMaxFile, '\0');
  ssize_t count = ::read(file.get(), content.data(), content.size());
  if (count < 0) throw_errno("reading " + path);
  content.resize(static_cast<std::size_t>(count));
  return content;
}

}  // namespace

RegistryEntry::RegistryEntry(std::string folder, SessionInfo info) : info_(std::move(info)) {
  if (folder.empty()) return;
  ::mkdir(folder.c_str(), 0700);
  path_ = fmt::format("{}/{}", folder, ::getpid());
  info_.process = kernel::identify(::getpid());
  if (!info_.role.empty()) update(info_);
}

RegistryEntry::~RegistryEntry() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

void RegistryEntry::update(const SessionInfo& info) {
  ProcessId process = info_.process;
  info_ = info;
  info_.process = process;
  if (path_.empty()) return;
  std::string temporary = path_ + ".new";
  try {
    UniqueFd file = open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    std::string content = encode(info_);
    write_fully(file, std::as_bytes(std::span(content)), temporary);
    if (::rename(temporary.c_str(), path_.c_str()) != 0) throw_errno("renaming " + temporary);
  } catch (const Error&) {
    // See the header: only `telefork ps` misses it.
    ::unlink(temporary.c_str());
    ::unlink(path_.c_str());
  }
}

void forget_session(const std::string& folder, pid_t process) {
  if (folder.empty()) return;
  for (const char* suffix : {"", ".new"}) {
    ::unlink(fmt::format("{}/{}{}", folder, process, suffix).c_str());
  }
}

std::vector<SessionInfo> list_sessions(const std::string& folder) {
  std::vector<SessionInfo> sessions;
  DIR* directory = ::opendir(folder.c_str());
  if (directory == nullptr) return sessions;
  while (const dirent* entry = ::readdir(directory)) {
    std::string name = entry->d_name;
    std::string path = fmt::format("{}/{}", folder, name);
    if (name.ends_with(".new")) {
      // Its process was killed while it wrote, if there is none of that number any more.
      pid_t writer = std::atoi(name.c_str());
      if (writer > 0 && ::kill(writer, 0) != 0 && errno == ESRCH) ::unlink(path.c_str());
      continue;
    }
    if (name.empty() || name.find_first_not_of("0123456789") != std::string::npos) continue;
    try {
      SessionInfo info = decode(read_small_file(path));
      if (kernel::is_alive(info.process)) {
        sessions.push_back(std::move(info));
      } else {
        ::unlink(path.c_str());
      }
    } catch (const Error& error) {
      if (error.error() != ENOENT) {
        ::closedir(directory);
        throw;
      }
    }
  }
  ::closedir(directory);
  std::sort(sessions.begin(), sessions.end(),
            [](const SessionInfo& a, const SessionInfo& b) { return a.pid < b.pid; });
  return sessions;
}

}  // namespace telefork::session
