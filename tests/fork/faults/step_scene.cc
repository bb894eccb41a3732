#include "step_scene.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "seen_process.h"

namespace fork_test {
namespace {

namespace fs = std::filesystem;
using telefork::session::kStepNames;
using telefork::session::Step;

bool is_victim(Victim victim, const SeenProcess& process, pid_t program, pid_t stopped) {
  auto named = [&](const char* name) { return process.name.starts_with(name); };
  switch (victim) {
    case Victim::kNobody:
      return false;
    case Victim::kProgram:
      return process.pid == program;
    case Victim::kSnapshot:
      return process.parent == program;
    case Victim::kAgents:
      return named("telefork-agent");
    case Victim::kFirstAgent: {
      auto parent = look_at(process.parent);
      return named("telefork-agent") && process.pid != stopped &&
             !(parent && parent->name.starts_with("telefork-agent"));
    }
    case Victim::kKeepers:
      return named("telefork-keeper");
    case Victim::kGuest: {
      auto parent = look_at(process.parent);
      return !named("telefork-") && parent &&
             (parent->name.starts_with("telefork-keeper") ||
              parent->name.starts_with("telefork-init"));
    }
    case Victim::kTelepad:
      return named("telepad");
    case Victim::kCable:
    case Victim::kSilence:
      return false;  // no process of telefork's
  }
  return false;
}

// Which its parent may wait for then; false when it does not come.
bool comes_to_its_end(pid_t pid) {
  constexpr int kPatienceMs = 180'000;
  const int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  pollfd ended{process, POLLIN, 0};
  const bool came = poll(&ended, 1, kPatienceMs) == 1;
  close(process);
  return came;
}

constexpr char kNodes[][6] = {"local", "unix", "tls"};

// So long a program waits whose agent was killed while it was away, and both ends of a silent link.
constexpr std::pair<const char*, const char*> kLease[] = {{"TELEFORK_LEASE_STOP_MS", "500"},
                                                          {"TELEFORK_LEASE_KILL_MS", "2000"},
                                                          {"TELEFORK_LEASE_HOME_MS", "4000"}};

// Of agents and telepads that are started from now on; else the usual one, of minutes.
void set_lease(bool is_short) {
  for (auto [variable, value] : kLease) {
    if (is_short) {
      setenv(variable, value, 1);
    } else {
      unsetenv(variable);
    }
  }
}

}  // namespace

std::vector<std::string> nodes_and_steps(const std::vector<Step>& steps) {
  std::vector<std::string> all;
  // A telepad of one's own dies as any other does: that is for `make soak`.
  const bool all_nodes = std::getenv("TELEFORK_TESTS_ALL") != nullptr;
  for (const std::string node : kNodes) {
    if (node == "local" && !all_nodes) continue;
    for (const auto& one : kStepNames) {
      if (std::find(steps.begin(), steps.end(), one.step) == steps.end()) continue;
      all.push_back(node + "_" + std::string(one.name));
    }
  }
  return all;
}

void AStep::SetUp() {
  const std::string name = GetParam().substr(GetParam().find('_') + 1);
  for (const auto& one : kStepNames) {
    if (one.name == name) step_ = one.step;
  }
  programs_.emplace();
  setenv(of_keeper() ? SteppingPrograms::kKeeper : SteppingPrograms::kAgent,
         ("--stop-at-step " + name).c_str(), 1);
  set_lease(true);
  setenv("TELEFORK_AGENT", programs_->agent().c_str(), 1);
  forget_killed_sessions_ = true;
  AFork::SetUp();
}

std::string AStep::lay_cable(const std::string& listens_at) {
  return cable_.emplace(listens_at).node();
}

void AStep::TearDown() {
  AFork::TearDown();
  for (const char* name : {SteppingPrograms::kKeeper, SteppingPrograms::kAgent, "TELEFORK_AGENT"}) {
    unsetenv(name);
  }
  set_lease(false);
  programs_.reset();
}

bool AStep::of_keeper() const { return step_ >= Step::kExpecting; }

bool AStep::may_run() const {
  // Home gives it up for itself when the keeper has said that it is ready.
  if (of_keeper()) return step_ >= Step::kReadySent;
  return step_ >= Step::kGoSent;
}

int AStep::times_run() const {
  std::error_code missing;
  const auto size = fs::file_size(path("ran"), missing);
  return missing ? 0 : static_cast<int>(size);
}

void AStep::note_run() const {
  const int file = open(path("ran").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  write_all(file, "x");
  close(file);
}

// The agent or keeper that has stopped itself; 0 when the program and all of them ended before
// that.
pid_t AStep::await_stopped(const Program& program) const {
  constexpr timespec kPause{0, 2'000'000};  // there is no event for it
  for (int tries = 0; tries < 20'000; ++tries) {
    bool may_stop = false;
    for (const SeenProcess& process : all_descendants()) {
      if (process.state == 'T') return process.pid;
      const bool ended = process.state == 'Z';
      may_stop |= !ended && (process.pid == program.pid || process.name.starts_with("telefork-"));
    }
    if (!may_stop) return 0;
    nanosleep(&kPause, nullptr);
  }
  ADD_FAILURE() << "nobody stops\n" << describe_descendants();
  return 0;
}

// The program at home has ended. Keepers without a guest wait for what the kernel says of the
// connection (TCP's keep-alive).
void AStep::expect_guests_end_there() const {
  constexpr timespec kPause{0, 2'000'000};  // there is no event for it
  for (int tries = 0; tries < 20'000; ++tries) {
    const std::vector<SeenProcess> left = all_descendants();
    const bool ended = std::all_of(left.begin(), left.end(), [this](const SeenProcess& process) {
      return process.pid == telepad_ || process.pid == cable_->pid() ||
             process.name.starts_with("telefork-");
    });
    if (ended) return;
    nanosleep(&kPause, nullptr);
  }
  ADD_FAILURE() << "left there:\n" << describe_descendants();
}

void AStep::check(const Case& one) {
  SCOPED_TRACE(std::string("killed: ") + one.name);
  std::error_code missing;
  fs::remove(path("ran"), missing);
  const bool at_once = of_keeper() && ends_at_once(one.victim);
  set_lease(!at_once);
  if (kind_of_node() != "local" && telepad_ < 0) start_telepad();
  if (cable_) cable_->lay();
  const Program program = start_program();
  const pid_t stopped = await_stopped(program);
  EXPECT_NE(stopped, 0) << "nobody came to this step";
  // Listed before anyone dies: the orphans of the dead change their parents.
  const std::vector<SeenProcess> processes = all_descendants();
  for (const SeenProcess& process : processes) {
    if (!is_victim(one.victim, process, program.pid, stopped)) continue;
    // A process whose threads are traced is not gone before its tracer, who is held, has seen it.
    if (one.victim == Victim::kProgram || one.victim == Victim::kGuest) {
      kill(process.pid, SIGKILL);
    } else {
      kill_and_await(process.pid);
    }
  }
  if (one.victim == Victim::kCable) cable_->cut();
  if (one.victim == Victim::kSilence) cable_->silence();
  auto let_go_on = [&] {
    for (const SeenProcess& process : processes) {
      if (process.state == 'T') kill(process.pid, SIGCONT);
    }
  };
  // Of its output more may come while the node is not heard.
  if (at_once) {
    EXPECT_TRUE(comes_to_its_end(program.pid)) << describe_descendants();
  }
  let_go_on();
  const Outcome outcome = finish(program);
  judge(one.victim, outcome);
  if (cable_) {
    // By the lease, and not because the telepad has died.
    if (one.victim == Victim::kSilence) expect_guests_end_there();
    cable_->remove();
  }
  if (telepad_ > 0) stop_telepad(SIGKILL);
  EXPECT_TRUE(all_processes_end());
}

}  // namespace fork_test
