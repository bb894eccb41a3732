#include "destination.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <regex>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"
#include "seen_process.h"
#include "victim_process.h"

namespace victims {
namespace {

namespace fs = std::filesystem;

// As tests/links/victims.sh tells it.
struct Machine {
  std::string node;
  std::string keys;  // of those who may come
  std::string init;  // its first process, as it is seen from here
};

std::optional<Machine> other_machine() {
  const char* node = std::getenv("TELEFORK_VICTIMS_NODE");
  if (node == nullptr) return std::nullopt;
  return Machine{node, std::getenv("TELEFORK_VICTIMS_KEYS"),
                 std::getenv("TELEFORK_VICTIMS_MACHINE")};
}

std::vector<pid_t> all_on(const Machine& machine) {
  return fork_test::list_descendants(std::stoi(machine.init));
}

// A keeper's end, or that of what it has left to the machine's first process, is no event here.
void await_nobody_but(const std::vector<pid_t>& before, const Machine& machine) {
  const auto patience = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (all_on(machine) != before) {
    if (std::chrono::steady_clock::now() < patience) {
      fork_test::pause_between_looks();
      continue;
    }
    for (const pid_t pid : all_on(machine)) {
      if (std::find(before.begin(), before.end(), pid) != before.end()) continue;
      const auto process = fork_test::look_at(pid);
      ADD_FAILURE() << "left on the other machine: " << (process ? process->name : "") << " "
                    << pid;
      kill(pid, SIGKILL);
    }
    return;
  }
}

}  // namespace

Destination::Destination(const std::string& telepad_program)
    : socket_(fs::temp_directory_path() /
              ("telefork-victim." + std::to_string(getpid()) + ".sock")) {
  std::vector<std::string> arguments = {telepad_program, "--quiet", "--socket", socket_};
  if (const auto machine = other_machine()) {
    before_ = all_on(*machine);
    arguments.insert(arguments.end(), {"--listen", "*", "--keys", machine->keys});
    arguments.insert(arguments.begin(), {"/usr/bin/env", "nsenter", "--target", machine->init,
                                         "--mount", "--uts", "--ipc", "--net", "--pid", "--"});
  }
  started_ = launch({arguments, "/"});
}

Destination::~Destination() {
  // Where there is none, its number would be everybody.
  if (const pid_t pid = telepad(); pid > 0) kill(pid, SIGTERM);
  waitpid(started_, nullptr, 0);
  if (const auto machine = other_machine()) await_nobody_but(before_, *machine);
}

bool Destination::is_another_machine() { return other_machine().has_value(); }

std::string Destination::node() const {
  const auto machine = other_machine();
  return machine ? machine->node : "unix:" + socket_;
}

bool Destination::may_listen() const { return is_another_machine() || fs::exists(socket_); }

bool Destination::has_ended() const {
  siginfo_t info{};
  constexpr int kLook = WEXITED | WNOHANG | WNOWAIT;
  return waitid(P_PID, static_cast<id_t>(started_), &info, kLook) == 0 && info.si_pid != 0;
}

// Only its children are in the pid namespace that nsenter(1) enters.
pid_t Destination::telepad() const {
  if (!is_another_machine()) return started_;
  const std::vector<pid_t> all = fork_test::list_descendants(started_);
  return all.empty() ? -1 : all.front();
}

std::vector<pid_t> Destination::guests() const {
  std::vector<pid_t> found;
  std::vector<pid_t> there = fork_test::list_descendants(telepad());
  if (const auto machine = other_machine()) {
    for (const pid_t pid : all_on(*machine)) {
      if (std::find(before_.begin(), before_.end(), pid) == before_.end()) there.push_back(pid);
    }
  }
  for (const pid_t pid : there) {
    const auto process = fork_test::look_at(pid);
    if (process && !process->name.starts_with("telefork-")) found.push_back(pid);
  }
  return found;
}

// NSpid: (proc(5)) has the pid here, the one there, and those within.
pid_t Destination::seen_from_here(pid_t pid_there) const {
  if (!is_another_machine()) return pid_there;
  const std::regex ids("\nNSpid:\\s+\\d+\\s+" + std::to_string(pid_there) + "\\b");
  for (const pid_t pid : fork_test::list_descendants(telepad())) {
    if (std::regex_search(fork_test::slurp("/proc/" + std::to_string(pid) + "/status"), ids)) {
      return pid;
    }
  }
  ADD_FAILURE() << "no process has the pid " << pid_there << " on the other machine\n"
                << fork_test::describe_descendants();
  return -1;
}

}  // namespace victims
