#include "session/registry.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <span>
#include <sstream>
#include <string_view>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "kernel/procfs_task.h"

namespace telefork::session {
namespace {

constexpr std::size_t kMaxFile = 1024 * 1024;  // of some thousand processes
constexpr const char* kConfirmed = "confirmed";
constexpr const char* kNewSuffix = ".new";
constexpr const char* kCallSuffix = ".call";

std::string without_newlines(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// One "key value" a line; a value has no newline, and only "warning", "held" and "namespace"
// come more than once.
std::string encode(const SessionInfo& info) {
  std::string text = fmt::format(
      "role {}\npid {}\nguest {}\nnode {}\nstate {}\nchanges_found_by {}\nbytes {}\ncommand {}\n",
      info.role, info.pid, info.guest_pid, info.node, info.state, info.changes_found_by, info.bytes,
      without_newlines(info.command));
  text += fmt::format(
      "mode {}\nmode_reason {}\nfollows {}\npages_missing {}\npages_came {}\nfaults {}\n"
      "blocked_us {}\npages_sent {}\npages_kept {}\nconnection_lost {}\n",
      info.mode, without_newlines(info.mode_reason), info.follows ? 1 : 0, info.pages_missing,
      info.pages_came, info.faults, info.blocked_us, info.pages_sent, info.pages_kept,
      info.connection_lost ? 1 : 0);
  if (const auto& hold = info.hold) {
    text += fmt::format("hold {} {}\n", hold->without_end ? 1 : 0, hold->fence_key);
    text += fmt::format("frozen_at {}\nlease_over {}\n", hold->frozen_at.count(),
                        hold->lease_over ? 1 : 0);
    for (const HeldMember& member : hold->members) {
      const tracee::HeldProcess& held = member.process;
      text += fmt::format("held {} {} {} {} {} {}\n", held.process.pid, held.process.start_time,
                          held.caller, held.gate.value(), held.lease.value(), member.common_end);
    }
  }
  for (const std::string& name : info.namespaces) text += fmt::format("namespace {}\n", name);
  for (const std::string& warning : info.warnings) {
    text += fmt::format("warning {}\n", without_newlines(warning));
  }
  return text;
}

// The other way round.
std::optional<HeldMember> decode_member(const std::string& text) {
  std::istringstream numbers(text);
  std::uint64_t gate = 0;
  std::uint64_t lease = 0;
  HeldMember member;
  tracee::HeldProcess& held = member.process;
  numbers >> held.process.pid >> held.process.start_time >> held.caller >> gate >> lease >>
      member.common_end;
  if (!numbers) return std::nullopt;
  held.gate = RemotePtr(gate);
  held.lease = RemotePtr(lease);
  return member;
}

std::optional<Hold> decode_hold(const std::string& text, std::vector<HeldMember> members,
                                bool confirmed) {
  std::istringstream words(text);
  Hold hold;
  words >> hold.without_end;
  if (!words || members.empty()) return std::nullopt;
  words >> hold.fence_key;
  hold.members = std::move(members);
  hold.confirmed = confirmed;
  return hold;
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
  std::vector<HeldMember> members;
  for (std::size_t at = 0; at < content.size();) {
    std::size_t end = std::min(content.find('\n', at), content.size());
    std::string line = content.substr(at, end - at);
    std::size_t space = line.find(' ');
    at = end + 1;
    if (space == std::string::npos) continue;
    std::string value = line.substr(space + 1);
    if (line.starts_with("warning ")) {
      info.warnings.push_back(std::move(value));
    } else if (line.starts_with("namespace ")) {
      info.namespaces.push_back(std::move(value));
    } else if (line.starts_with("held ")) {
      if (auto member = decode_member(value)) members.push_back(*member);
    } else {
      fields[line.substr(0, space)] = std::move(value);
    }
  }
  info.role = text(fields, "role");
  info.pid = number<pid_t>(fields, "pid");
  info.guest_pid = number<pid_t>(fields, "guest");
  info.node = text(fields, "node");
  info.state = text(fields, "state");
  info.changes_found_by = text(fields, "changes_found_by");
  info.mode = text(fields, "mode");
  info.mode_reason = text(fields, "mode_reason");
  info.follows = number<int>(fields, "follows") != 0;
  info.pages_missing = number<std::uint64_t>(fields, "pages_missing");
  info.pages_came = number<std::uint64_t>(fields, "pages_came");
  info.faults = number<std::uint64_t>(fields, "faults");
  info.blocked_us = number<std::uint64_t>(fields, "blocked_us");
  info.pages_sent = number<std::uint64_t>(fields, "pages_sent");
  info.pages_kept = number<std::uint64_t>(fields, "pages_kept");
  info.bytes = number<std::uint64_t>(fields, "bytes");
  info.connection_lost = number<int>(fields, "connection_lost") != 0;
  info.command = text(fields, "command");
  info.hold =
      decode_hold(text(fields, "hold"), std::move(members), number<int>(fields, kConfirmed) != 0);
  if (info.hold) {
    info.hold->frozen_at = std::chrono::nanoseconds(number<std::int64_t>(fields, "frozen_at"));
    info.hold->lease_over = number<int>(fields, "lease_over") != 0;
  }
  return info;
}

std::string file_name(pid_t process) {
  return fmt::format("{}.{}", process, kernel::own_pid_namespace());
}

// A file that was replaced has no name any more.
bool try_lock(const UniqueFd& file, int operation) {
  struct stat status {};
  return ::flock(file.get(), operation | LOCK_NB) == 0 && ::fstat(file.get(), &status) == 0 &&
         status.st_nlink != 0;
}

// Its session has ended, or died over it. Who looks keeps nobody else from looking.
bool is_left_over(const UniqueFd& file) { return try_lock(file, LOCK_SH); }
// And nobody else looks: whoever removes it must not remove what another has put there since.
bool try_own(const UniqueFd& file) { return try_lock(file, LOCK_EX); }

std::string read_small_file(const UniqueFd& file, const std::string& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw_errno("looking at " + path);
  std::string content(std::min(static_cast<std::size_t>(status.st_size), kMaxFile), '\0');
  ssize_t count = ::pread(file.get(), content.data(), content.size(), 0);
  if (count < 0) throw_errno("reading " + path);
  content.resize(static_cast<std::size_t>(count));
  return content;
}

bool is_of_our_namespace(std::string_view name) {
  return name.ends_with(fmt::format(".{}", kernel::own_pid_namespace()));
}

// Nobody may remove it. Of what another pid namespace has nobody here can tell.
bool holds_somebody(const UniqueFd& file, const std::string& path) {
  try {
    const SessionInfo info = decode(read_small_file(file, path));
    return info.hold && (!is_of_our_namespace(path) || is_held(*info.hold));
  } catch (const Error&) {
    return false;
  }
}

UniqueFd open_entry(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
}

// Another process has the number of one that was killed: what that has left gets another name.
void set_aside(const std::string& folder, const std::string& path, const std::string& name) {
  const UniqueFd file = open_entry(path);
  if (!file || !is_left_over(file) || !holds_somebody(file, path)) return;
  const SessionInfo left = decode(read_small_file(file, path));
  const std::uint64_t since = left.hold->members.front().process.process.start_time;
  ::rename(path.c_str(), fmt::format("{}/{}.{}", folder, since, name).c_str());
}

// Of a session that was killed, and whose entry somebody has removed. One with its number that just
// begins writes its entry under this name first, and waits for the lock until the socket is gone:
// its own comes later. In a folder of another user's that one could not write.
void remove_stale_call(const std::string& folder, const std::string& call) {
  const std::string path = call.substr(0, call.size() - std::strlen(kCallSuffix));
  const std::string temporary = path + kNewSuffix;
  struct stat status {};
  if (::stat(folder.c_str(), &status) != 0 || status.st_uid != ::geteuid()) return;
  if (::access(path.c_str(), F_OK) == 0) return;
  const UniqueFd file(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file || !try_own(file)) return;
  if (::access(path.c_str(), F_OK) != 0) ::unlink(call.c_str());
  ::unlink(temporary.c_str());
}

bool is_entry_name(std::string_view name) {
  return name.find_first_not_of(".0123456789new") == std::string_view::npos && name[0] != '.';
}

// Each file that a living session holds, or that one has left with what is held. Others go.
template <class See>
void for_each_living(const std::string& folder, See see) {
  if (folder.empty()) return;
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(folder.c_str()), ::closedir);
  if (!directory) return;
  while (const dirent* entry = ::readdir(directory.get())) {
    std::string name = entry->d_name;
    std::string path = fmt::format("{}/{}", folder, name);
    if (name.ends_with(kCallSuffix)) remove_stale_call(folder, path);
    if (!is_entry_name(name)) continue;
    UniqueFd file = open_entry(path);
    struct stat status {};
    // It has just ended; or it is nothing that a session makes, in a folder that is a user's own.
    if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
    const bool left = is_left_over(file);
    if (left && !holds_somebody(file, path)) {
      if (!try_own(file)) continue;
      ::unlink(path.c_str());
      ::unlink((path + kCallSuffix).c_str());
    } else {
      see(name, file, path, left);
    }
  }
}

}  // namespace

std::chrono::nanoseconds time_since_boot() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

std::chrono::nanoseconds time_lost(const Hold& hold) { return time_since_boot() - hold.frozen_at; }

bool is_held(const Hold& hold) {
  return std::any_of(hold.members.begin(), hold.members.end(),
                     [](const HeldMember& member) { return tracee::is_parked(member.process); });
}

const HeldMember* find_member(const Hold& hold, pid_t pid) {
  for (const HeldMember& member : hold.members) {
    const ProcessId& process = member.process.process;
    if (process.pid == pid && kernel::is_alive(process)) return &member;
  }
  return nullptr;
}

RegistryEntry::RegistryEntry(std::string folder, SessionInfo info) : info_(std::move(info)) {
  if (folder.empty()) return;
  ::mkdir(folder.c_str(), 0700);
  path_ = fmt::format("{}/{}", folder, file_name(::getpid()));
  set_aside(folder, path_, file_name(::getpid()));
  if (!info_.role.empty()) write();
}

RegistryEntry::~RegistryEntry() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

void RegistryEntry::leave() {
  path_.clear();
  file_.reset();
}

void RegistryEntry::update(const SessionInfo& info) {
  info_ = info;
  if (!path_.empty()) write();
}

void RegistryEntry::tell_connection(bool is_lost) {
  if (info_.connection_lost == is_lost) return;
  SessionInfo info = info_;
  info.connection_lost = is_lost;
  update(info);
}

void RegistryEntry::write() {
  std::string temporary = path_ + kNewSuffix;
  try {
    UniqueFd file;
    struct stat status {};
    // Whoever clears up may have removed it before it was locked.
    while (status.st_nlink == 0) {
      file = open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
      if (::flock(file.get(), LOCK_EX) != 0) throw_errno("locking " + temporary);
      if (::fstat(file.get(), &status) != 0) throw_errno("looking at " + temporary);
    }
    std::string content = encode(info_);
    write_fully(file, std::as_bytes(std::span(content)), temporary);
    if (::rename(temporary.c_str(), path_.c_str()) != 0) throw_errno("renaming " + temporary);
    file_ = std::move(file);
  } catch (const Error&) {
    // See the header: only `telefork ps` misses it.
    ::unlink(temporary.c_str());
    ::unlink(path_.c_str());
  }
}

void forget_session(const std::string& folder, pid_t process) {
  if (folder.empty()) return;
  const std::string path = fmt::format("{}/{}", folder, file_name(process));
  ::unlink((path + kNewSuffix).c_str());
  ::unlink((path + kCallSuffix).c_str());
  const UniqueFd file = open_entry(path);
  if (!file || !holds_somebody(file, path)) ::unlink(path.c_str());
}

UniqueFd try_take_over(const std::string& path) {
  UniqueFd file = open_entry(path);
  if (!file || !try_own(file)) return {};
  return file;
}

// What cannot be noted the next one asks again.
void note_confirmed(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW));
  const std::string line = fmt::format("{} 1\n", kConfirmed);
  [[maybe_unused]] const ssize_t count = ::write(file.get(), line.data(), line.size());
}

std::string call_path(const std::string& folder, pid_t process) {
  return fmt::format("{}/{}{}", folder, file_name(process), kCallSuffix);
}

void forget_ended_sessions(const std::string& folder) {
  for_each_living(folder, [](const std::string&, const UniqueFd&, const std::string&, bool) {});
}

std::vector<SessionInfo> list_sessions(const std::vector<std::string>& folders) {
  std::vector<SessionInfo> sessions;
  auto see = [&](const std::string& name, const UniqueFd& file, const std::string& path,
                 bool left) {
    if (!is_of_our_namespace(name)) return;
    sessions.push_back(decode(read_small_file(file, path)));
    sessions.back().path = path;
    sessions.back().session = std::atoi(name.c_str());
    sessions.back().left = left;
    if (left) sessions.back().state = "held";
    std::string call = path + kCallSuffix;
    struct stat status {};
    if (::lstat(call.c_str(), &status) == 0) sessions.back().call = std::move(call);
  };
  for (const std::string& folder : folders) for_each_living(folder, see);
  std::sort(sessions.begin(), sessions.end(),
            [](const SessionInfo& a, const SessionInfo& b) { return a.pid < b.pid; });
  return sessions;
}

}  // namespace telefork::session
