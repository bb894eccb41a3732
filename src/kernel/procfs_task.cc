#include "kernel/procfs_task.h"

#include <linux/capability.h>
#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

constexpr std::size_t kMaxIds = 65536;  // NGROUPS_MAX; pid namespaces nest 32 deep at most

// The fields behind the command name, by their numbers in proc_pid_stat(5).
class StatFields {
 public:
  StatFields(std::string_view text, std::string_view what)
      : words_(split_words(text)), what_(what) {}

  std::string_view text(std::size_t number) const {
    constexpr std::size_t kFirst = 3;
    if (number - kFirst >= words_.size())
      throw Error(Code::kCorrupt, fmt::format("{}: field {} is missing", what_, number));
    return words_[number - kFirst];
  }
  std::uint64_t u64(std::size_t number) const { return parse_decimal(text(number), what_); }
  RemotePtr address(std::size_t number) const { return RemotePtr(u64(number)); }
  int integer(std::size_t number) const { return TextScanner(text(number), what_).integer(); }
  unsigned u32(std::size_t number) const {
    return static_cast<unsigned>(std::min<std::uint64_t>(u64(number), ~0u));
  }

 private:
  std::vector<std::string_view> words_;
  std::string_view what_;
};

void take_process_fields(Stat& stat, const StatFields& fields) {
  stat.state = fields.text(3).front();
  stat.ppid = fields.integer(4);
  stat.pgrp = fields.integer(5);
  stat.session = fields.integer(6);
  stat.tty_nr = fields.integer(7);
  stat.tpgid = fields.integer(8);
  stat.flags = fields.u64(9);
  stat.user_ticks = fields.u64(14);
  stat.system_ticks = fields.u64(15);
  stat.nice = fields.integer(19);
  stat.num_threads = fields.integer(20);
  stat.start_time = fields.u64(22);
  stat.exit_signal = fields.integer(38);
  stat.rt_priority = fields.u32(40);
  stat.policy = fields.u32(41);
  stat.exit_code = fields.integer(52);
}

void take_memory_fields(Stat& stat, const StatFields& fields) {
  stat.start_code = fields.address(26);
  stat.end_code = fields.address(27);
  stat.start_stack = fields.address(28);
  stat.start_data = fields.address(45);
  stat.end_data = fields.address(46);
  stat.start_brk = fields.address(47);
  stat.arg_start = fields.address(48);
  stat.arg_end = fields.address(49);
  stat.env_start = fields.address(50);
  stat.env_end = fields.address(51);
}

template <class T>
std::vector<T> numbers(std::string_view value, std::string_view what) {
  std::vector<T> found;
  for (std::string_view word : split_words(value)) {
    std::uint64_t number = parse_decimal(word, what);
    if (number > std::numeric_limits<std::make_unsigned_t<T>>::max() || found.size() == kMaxIds)
      throw Error(Code::kCorrupt, fmt::format("{}: too large a list or number", what));
    found.push_back(static_cast<T>(number));
  }
  return found;
}

template <class T>
std::array<T, 4> four_numbers(std::string_view value, std::string_view what) {
  std::vector<T> found = numbers<T>(value, what);
  if (found.size() != 4) throw Error(Code::kCorrupt, fmt::format("{}: expected four ids", what));
  return {found[0], found[1], found[2], found[3]};
}

std::uint64_t kilobytes(std::string_view value, std::string_view what) {
  TextScanner scanner(trim(value), what);
  std::uint64_t amount = scanner.decimal();
  scanner.expect(" kB");
  return amount;
}

int integer(std::string_view value, std::string_view what) {
  return TextScanner(trim(value), what).integer();
}

// The kernel writes a newline as \n and a backslash as \\ here (proc_task_name).
std::string unescape_name(std::string_view text) {
  std::string name;
  for (std::size_t i = 0; i < text.size(); ++i) {
    bool escape = text[i] == '\\' && i + 1 < text.size();
    if (escape) ++i;
    name.push_back(escape && text[i] == 'n' ? '\n' : text[i]);
  }
  return name;
}

struct StatusField {
  std::string_view key;
  void (*take)(Status& status, std::string_view value, std::string_view what);
};

template <std::uint64_t Status::*member>
void take_mask(Status& status, std::string_view value, std::string_view what) {
  status.*member = parse_hex(value, what);
}

template <int Status::*member>
void take_integer(Status& status, std::string_view value, std::string_view what) {
  status.*member = integer(value, what);
}

template <std::uint64_t Status::*member>
void take_kilobytes(Status& status, std::string_view value, std::string_view what) {
  status.*member = kilobytes(value, what);
}

template <std::vector<pid_t> Status::*member>
void take_pids(Status& status, std::string_view value, std::string_view what) {
  status.*member = numbers<pid_t>(value, what);
}

// "3/95000"
void take_signal_queue(Status& status, std::string_view value, std::string_view what) {
  value = trim(value);
  std::size_t slash = value.find('/');
  if (slash == std::string_view::npos) {
    throw Error(Code::kCorrupt, fmt::format("{}: no limit of signals", what));
  }
  status.queued_signals = TextScanner(value.substr(0, slash), what).decimal();
  status.most_signals = TextScanner(value.substr(slash + 1), what).decimal();
}

void take_umask(Status& status, std::string_view value, std::string_view what) {
  status.umask = static_cast<unsigned>(TextScanner(trim(value), what).octal() & 0777);
  status.has_umask = true;
}

void take_name(Status& status, std::string_view value, std::string_view) {
  if (value.starts_with('\t')) value.remove_prefix(1);
  status.name = unescape_name(value);
}

void take_state(Status& status, std::string_view value, std::string_view what) {
  status.state = TextScanner(trim(value), what).character();
}

const StatusField kStatusFields[] = {
    {"Name", take_name},
    {"Umask", take_umask},
    {"State", take_state},
    {"Tgid", take_integer<&Status::tgid>},
    {"Pid", take_integer<&Status::pid>},
    {"PPid", take_integer<&Status::ppid>},
    {"TracerPid", take_integer<&Status::tracer_pid>},
    {"Uid",
     [](Status& s, std::string_view v, std::string_view w) { s.uids = four_numbers<uid_t>(v, w); }},
    {"Gid",
     [](Status& s, std::string_view v, std::string_view w) { s.gids = four_numbers<gid_t>(v, w); }},
    {"Groups",
     [](Status& s, std::string_view v, std::string_view w) { s.groups = numbers<gid_t>(v, w); }},
    {"Threads", take_integer<&Status::threads>},
    {"NStgid", take_pids<&Status::ns_tgids>},
    {"NSpid", take_pids<&Status::ns_pids>},
    {"NSpgid", take_pids<&Status::ns_pgids>},
    {"NSsid", take_pids<&Status::ns_sids>},
    {"SigQ", take_signal_queue},
    {"SigPnd", take_mask<&Status::thread_pending>},
    {"ShdPnd", take_mask<&Status::shared_pending>},
    {"SigBlk", take_mask<&Status::blocked>},
    {"SigIgn", take_mask<&Status::ignored>},
    {"SigCgt", take_mask<&Status::caught>},
    {"CapInh", take_mask<&Status::cap_inheritable>},
    {"CapPrm", take_mask<&Status::cap_permitted>},
    {"CapEff", take_mask<&Status::cap_effective>},
    {"CapBnd", take_mask<&Status::cap_bounding>},
    {"CapAmb", take_mask<&Status::cap_ambient>},
    {"NoNewPrivs", [](Status& s, std::string_view v,
                      std::string_view w) { s.no_new_privs = integer(v, w) != 0; }},
    {"Seccomp", take_integer<&Status::seccomp>},
    {"Seccomp_filters", take_integer<&Status::seccomp_filters>},
    {"VmRSS", take_kilobytes<&Status::resident_kb>},
    {"RssAnon", take_kilobytes<&Status::anonymous_kb>},
    {"VmSwap", take_kilobytes<&Status::swap_kb>},
    {"VmLck", take_kilobytes<&Status::locked_kb>},
};

bool has_living_threads(const Stat& stat) {
  if (stat.state == 'X') return false;
  return stat.state != 'Z' || stat.num_threads > 1;
}

// For kernels without CONFIG_PROC_CHILDREN.
std::vector<pid_t> find_children(pid_t parent) {
  std::vector<pid_t> children;
  for (pid_t pid : list_processes()) try {
      if (read_stat(pid).ppid == parent) children.push_back(pid);
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;  // ended since it was listed
    }
  return children;
}

}  // namespace

Stat parse_stat(std::string_view text, std::string_view what) {
  // The name may hold anything, ')' too; nothing behind it does.
  std::size_t open = text.find('(');
  std::size_t close = text.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open)
    throw Error(Code::kCorrupt, fmt::format("{}: no name in parentheses", what));
  Stat stat;
  stat.pid = integer(text.substr(0, open), what);
  stat.comm = text.substr(open + 1, close - open - 1);
  StatFields fields(text.substr(close + 1), what);
  take_process_fields(stat, fields);
  take_memory_fields(stat, fields);
  return stat;
}

Status parse_status(std::string_view text, std::string_view what) {
  Status status;
  TextScanner scanner(text, what);
  while (!scanner.at_end()) {
    std::string_view line = scanner.rest_of_line();
    std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) scanner.fail("a key with a colon before this");
    for (const StatusField& field : kStatusFields)
      if (field.key == line.substr(0, colon)) field.take(status, line.substr(colon + 1), what);
  }
  if (status.pid <= 0 || status.tgid <= 0) scanner.fail("a pid and a tgid before this");
  return status;
}

Stat read_stat(pid_t pid) {
  return parse_stat(read_proc_file(pid, "stat"), fmt::format("stat of {}", pid));
}

Status read_status(pid_t pid) {
  return parse_status(read_proc_file(pid, "status"), fmt::format("status of {}", pid));
}

ProcessId identify(pid_t pid) { return {.pid = pid, .start_time = read_stat(pid).start_time}; }

bool is_alive(ProcessId id) try {
  Stat stat = read_stat(id.pid);
  return stat.start_time == id.start_time && has_living_threads(stat);
} catch (const Error& error) {
  if (error.code() == Code::kGone) return false;
  throw;
}

std::vector<pid_t> list_threads(pid_t pid) { return list_proc_numbers(pid, "task"); }

bool is_thread_of(pid_t pid, pid_t tid) {
  return ::access(proc_path(pid, fmt::format("task/{}", tid)).c_str(), F_OK) == 0;
}

std::vector<pid_t> list_children(pid_t pid) {
  std::vector<pid_t> children;
  for (pid_t tid : list_threads(pid)) try {
      std::string text = read_proc_file(pid, fmt::format("task/{}/children", tid));
      std::vector<pid_t> found = numbers<pid_t>(text, "children");
      children.insert(children.end(), found.begin(), found.end());
    } catch (const Error& error) {
      if (error.error() != ENOENT && error.code() != Code::kGone) throw;
      // A thread that has ended since it was listed has left its children to another thread.
      if (!is_thread_of(pid, tid)) continue;
      return find_children(pid);
    }
  std::sort(children.begin(), children.end());
  return children;
}

std::vector<pid_t> list_processes() { return list_numbers("/proc"); }

bool may_suspend_seccomp() {
  constexpr ino_t kFirstUserNamespace = 0xEFFFFFFD;  // include/linux/proc_ns.h
  struct stat space;
  const Status own = read_status(::getpid());
  return own.seccomp == 0 && (own.cap_effective & (1ULL << CAP_SYS_ADMIN)) != 0 &&
         ::stat("/proc/self/ns/user", &space) == 0 && space.st_ino == kFirstUserNamespace;
}

std::uint64_t own_pid_namespace() {
  struct stat status;
  return ::stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

bool has_own_proc() {
  char target[16] = {};
  ssize_t size = ::readlink("/proc/self", target, sizeof(target) - 1);
  // A namespace further in does not know this process at all.
  struct stat self {};
  if (size < 0) return ::lstat("/proc/self", &self) != 0;
  return target == std::to_string(::getpid());
}

}  // namespace telefork::kernel
