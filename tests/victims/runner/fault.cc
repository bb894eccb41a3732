#include "fault.h"

#include <algorithm>
#include <csignal>
#include <ctime>

#include <gtest/gtest.h>

#include "scene.h"
#include "seen_process.h"

namespace victims {
namespace {

using fork_test::SeenProcess;
using telefork::session::Step;
using Killed = FaultCase::Killed;

// The session process is begun by the command, and has its name.
bool is_session(const SeenProcess& process, pid_t command) {
  return process.name == "telefork" && process.pid != command && process.state != 'Z';
}

bool is_keeper(const SeenProcess& process) {
  return process.name == "telefork-keeper" && process.state != 'Z';
}

// Whoever has stopped itself; 0: everybody who might has ended without.
pid_t await_stopped(const Command& command, bool keeper) {
  constexpr timespec kPause{0, 1'000'000};  // there is no event for it
  for (int tries = 0; tries < 60'000; ++tries) {
    bool may_stop = !command.has_ended();
    for (const SeenProcess& process : fork_test::all_descendants()) {
      if (keeper ? !is_keeper(process) : !is_session(process, command.pid())) continue;
      if (process.state == 'T') return process.pid;
      may_stop = true;
    }
    if (!may_stop) return 0;
    nanosleep(&kPause, nullptr);
  }
  return 0;
}

}  // namespace

bool is_of_keeper(Step step) { return step >= Step::kExpecting; }

std::vector<Step> steps_of_move() {
  return {Step::kChecked,   Step::kAnnounced, Step::kFrozen,   Step::kDescribed,
          Step::kSent,      Step::kGivenUp,   Step::kGoSent,   Step::kStartSeen,
          Step::kHollowed,  Step::kExpecting, Step::kArrived,  Step::kWhole,
          Step::kReadySent, Step::kGoSeen,    Step::kReleased, Step::kStarted};
}

std::vector<Step> steps_of_lazy_move() {
  std::vector<Step> steps = steps_of_move();
  steps.insert(std::find(steps.begin(), steps.end(), Step::kHollowed), Step::kAllThere);
  return steps;
}

bool is_given_up(Step step) {
  return step >= (is_of_keeper(step) ? Step::kGoSeen : Step::kGivenUp);
}

bool may_be_lost(const FaultCase& fault) {
  if (is_of_keeper(fault.step)) return fault.step == Step::kStarted;
  if (fault.step == Step::kHollowed) return true;
  // It may have said that it runs, before it was killed.
  return fault.killed == Killed::kKeeper &&
         (fault.step == Step::kGoSent || fault.step == Step::kStartSeen ||
          fault.step == Step::kAllThere);
}

void let_keepers_go() {
  constexpr timespec kPause{0, 1'000'000};  // there is no event for it
  for (int tries = 0; tries < 60'000; ++tries) {
    bool all_ended = true;
    for (const SeenProcess& process : fork_test::all_descendants()) {
      if (!is_keeper(process)) continue;
      all_ended = false;
      if (process.state == 'T') kill(process.pid, SIGCONT);
    }
    if (all_ended) return;
    nanosleep(&kPause, nullptr);
  }
}

FaultyMove move_with_fault(std::vector<std::string> arguments, const FaultCase& fault) {
  const bool keeper_stops = is_of_keeper(fault.step);
  if (!keeper_stops) {
    arguments.emplace_back("--stop-at");
    arguments.emplace_back(step_name(fault.step));
  }
  Command command(arguments, "/");
  FaultyMove move;
  const pid_t stopped = await_stopped(command, keeper_stops);
  move.held = stopped != 0;
  // What it says then it has said to the other end, which acts on it before it dies.
  if (fault.step == Step::kStarted && move.held) command.await_end();
  for (const SeenProcess& process : fork_test::all_descendants()) {
    const bool hit =
        fault.killed == Killed::kSession ? is_session(process, command.pid()) : is_keeper(process);
    if (move.held && hit) fork_test::kill_and_await(process.pid);
  }
  if (move.held) kill(stopped, SIGCONT);
  move.end = command.finish();
  return move;
}

}  // namespace victims
