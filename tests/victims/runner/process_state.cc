#include "process_state.h"

#include <array>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>

#include <fcntl.h>

#include "scene.h"
#include "seen_process.h"

namespace victims {
namespace {

namespace fs = std::filesystem;
using fork_test::slurp;

constexpr std::array kWholeFiles = {"cmdline",         "environ", "limits",     "oom_score_adj",
                                    "coredump_filter", "comm",    "personality"};
constexpr std::array kLinks = {"cwd", "root", "exe"};

// A file without a name arrives in one that has another.
std::string without_lost_name(const std::string& target) {
  return target.ends_with(" (deleted)") ? "a deleted file" : target;
}

std::string link_of(const fs::path& path) {
  std::error_code gone;
  const std::string target = without_lost_name(fs::read_symlink(path, gone));
  static const std::regex inode(R"(^(pipe|socket):\[\d+\])");
  // On the same machine the other one has the number still.
  static const std::regex terminal(R"(^/dev/pts/\d+)");
  return std::regex_replace(std::regex_replace(target, inode, "$1"), terminal, "a terminal");
}

// O_TMPFILE says how it was made, and is nothing to an open file.
std::string without_origin(const std::string& flags) {
  const unsigned long bits = std::stoul(flags.substr(flags.find('\t')), nullptr, 8);
  const bool made_nameless = (bits & O_TMPFILE) == O_TMPFILE;
  std::ostringstream text;
  text << "flags:\t" << std::oct << (made_nameless ? bits & ~(O_TMPFILE + 0UL) : bits);
  return text.str();
}

// Of every thread, since each may have its own.
const std::set<std::string>& lines_of_status() {
  static const std::set<std::string> lines = {"Name",
                                              "Umask",
                                              "Uid",
                                              "Gid",
                                              "Groups",
                                              "Threads",
                                              "SigPnd",
                                              "ShdPnd",
                                              "SigBlk",
                                              "SigIgn",
                                              "SigCgt",
                                              "CapInh",
                                              "CapPrm",
                                              "CapEff",
                                              "CapBnd",
                                              "CapAmb",
                                              "NoNewPrivs",
                                              "Seccomp",
                                              "Seccomp_filters",
                                              "Cpus_allowed_list",
                                              "Mems_allowed_list",
                                              "THP_enabled"};
  return lines;
}

// The number that it has in its own namespace; `name`: NSpid, NSpgid or NSsid.
std::string own_number(const std::string& name, const std::string& status) {
  const std::regex ids("\\n" + name + R"(:.*\s(\d+)\n)");
  std::smatch match;
  return std::regex_search(status, match, ids) ? match[1].str() : "?";
}

std::string own_id(const std::string& status) { return own_number("NSpid", status); }

pid_t parent_of(const std::string& status) {
  static const std::regex parent(R"(\nPPid:\s(\d+)\n)");
  std::smatch match;
  return std::regex_search(status, match, parent) ? std::stoi(match[1].str()) : 0;
}

// The kernel takes a signal that a thread waits for out of its mask meanwhile, and whether it is
// there already nobody knows.
std::string without_sigterm(const std::string& value) {
  const std::uint64_t mask =
      std::stoull(value.substr(value.find_first_not_of(": \t")), nullptr, 16);
  std::ostringstream text;
  text << std::hex << (mask & ~(std::uint64_t{1} << (SIGTERM - 1)));
  return text.str();
}

// What telefork has written to code that nobody may write to is committed memory there
// (docs/limits.md, "A program without a libc").
std::string without_accounting(const std::string& range, const std::string& flags) {
  if (!range.ends_with(" r-xp")) return flags;
  static const std::regex accounted(" ac( |$)");
  return std::regex_replace(flags, accounted, "$1");
}

std::string scheduling_of(const std::string& stat) {
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  std::array<std::string, 40> field;  // from 3, the state, on; see proc(5)
  for (std::string& text : field) fields >> text;
  return "priority " + field[15] + ", nice " + field[16] + ", realtime " + field[37] + ", policy " +
         field[38];
}

}  // namespace

ProcessState::ProcessState(pid_t pid) {
  add_process(pid);
  const std::string first = slurp("/proc/" + std::to_string(pid) + "/status");
  for (const pid_t child : fork_test::list_descendants(pid)) add_child(child, first);
}

// `first`: the status of the first process, whose group and session are where it comes to.
void ProcessState::add_child(pid_t child, const std::string& first) {
  const std::string path = "/proc/" + std::to_string(child) + "/status";
  static const std::regex quiet(R"(\nState:\s[STtZ])");
  while (!std::regex_search(slurp(path), quiet)) fork_test::pause_between_looks();
  const std::string status = slurp(path);
  static const std::regex shown(R"(\nState:\s([TtZ]))");
  std::smatch match;
  ProcessState state;
  state.values_["state"] = std::regex_search(status, match, shown) ? match[1].str() : "runs";
  // So it is said of one that is stopped and traced: of who went along with another one.
  if (state.values_["state"] == "t") state.values_["state"] = "T";
  if (state.values_["state"] == "Z") {
    // Nothing else is asked of one that has ended.
    state.values_["comm"] = slurp("/proc/" + std::to_string(child) + "/comm");
  } else {
    state.add_process(child);
  }
  state.values_["parent"] = own_id(slurp("/proc/" + std::to_string(parent_of(status)) + "/status"));
  for (const char* name : {"NSpgid", "NSsid"}) {
    const std::string id = own_number(name, status);
    state.values_[name] = id == own_number(name, first) ? "that of the first" : id;
  }
  const std::string prefix = "process " + own_id(status) + ": ";
  for (const auto& [name, value] : state.values_) values_[prefix + name] = value;
}

void ProcessState::add_process(pid_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid) + "/";
  for (const char* name : kWholeFiles) values_[name] = slurp(folder + name);
  for (const char* name : kLinks) values_[name] = link_of(folder + name);
  add_map(folder);
  add_descriptors(folder);
  add_threads(folder);
}

void ProcessState::add_map(const std::string& folder) {
  std::istringstream lines(slurp(folder + "smaps"));
  static const std::regex mapping(R"(^([0-9a-f]+-[0-9a-f]+ \S+) ([0-9a-f]+) \S+ \d+ *(.*)$)");
  std::string range;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("VmFlags:")) {
      values_[range] += " flags" + without_accounting(range, line.substr(8));
      continue;
    }
    // Cheap before it is exact: there may be very many.
    if (line.empty() || (line[0] >= 'A' && line[0] <= 'Z')) continue;
    std::smatch match;
    if (!std::regex_match(line, match, mapping)) continue;
    range = "mapping " + match[1].str();
    values_[range] = match[2].str() + " " + without_lost_name(match[3].str());
  }
}

void ProcessState::add_descriptors(const std::string& folder) {
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(folder + "fd", gone)) {
    const std::string number = entry.path().filename();
    if (std::stoi(number) <= 2) continue;
    std::string& value = values_["descriptor " + number];
    value = link_of(entry.path());
    std::istringstream lines(slurp(folder + "fdinfo/" + number));
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("flags:")) line = without_origin(line);
      if (line.starts_with("pos:") || line.starts_with("flags:")) value += " " + line;
    }
  }
}

void ProcessState::add_threads(const std::string& folder) {
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(folder + "task", gone)) {
    const std::string status = slurp(entry.path() / "status");
    const std::string thread = "thread " + own_id(status) + " ";
    std::istringstream lines(status);
    for (std::string line; std::getline(lines, line);) {
      const std::string name = line.substr(0, line.find(':'));
      if (!lines_of_status().contains(name)) continue;
      const std::string value = line.substr(name.size());
      values_[thread + name] = name == "SigBlk" ? without_sigterm(value) : value;
    }
    values_[thread + "scheduling"] = scheduling_of(slurp(entry.path() / "stat"));
  }
}

std::string ProcessState::differences_from(const ProcessState& before) const {
  std::string text;
  for (const auto& [name, value] : before.values_) {
    auto now = values_.find(name);
    if (now == values_.end()) {
      text += name + " is gone: " + value + "\n";
    } else if (now->second != value) {
      text += name + " was " + value + ", is " + now->second + "\n";
    }
  }
  for (const auto& [name, value] : values_) {
    if (!before.values_.contains(name)) text += name + " is new: " + value + "\n";
  }
  return text;
}

std::string describe_threads(pid_t pid) {
  std::string text;
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/task", gone)) {
    const std::string status = slurp(entry.path() / "status");
    static const std::regex mask("SigBlk:\\s+([0-9a-f]+)");
    std::smatch match;
    text += "thread " + entry.path().filename().string() + ": mask " +
            (std::regex_search(status, match, mask) ? match[1].str() : "?") + ", waits in " +
            slurp(entry.path() / "wchan") + ", system call " + slurp(entry.path() / "syscall");
  }
  return text;
}

}  // namespace victims
