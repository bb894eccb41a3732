// A hand-over that is held at one of its steps (session/steps.h), where somebody is killed.
//
// Home reaches a `tls` node by a cable of the test's (cable.h).
//
// An agent or keeper stops itself at the step; then the victim is killed, or the cable cut, and
// what was held goes on (stepping_programs.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cable.h"
#include "scene.h"
#include "session/steps.h"
#include "stepping_programs.h"

namespace fork_test {

enum class Victim {
  kNobody,
  kProgram,
  kSnapshot,
  kAgents,
  kFirstAgent,
  kKeepers,
  kGuest,  // or what is to become it
  kTelepad,
  kCable,    // of `tls`: it is cut
  kSilence,  // nothing passes it any more, and nobody is told
};

inline bool needs_cable(Victim victim) {
  return victim == Victim::kCable || victim == Victim::kSilence;
}

struct Case {
  Victim victim;
  const char* name;
};

// "local_asked", "unix_asked" ...: the parameter of a test.
std::vector<std::string> nodes_and_steps(const std::vector<telefork::session::Step>& steps);

class AStep : public AFork {
 protected:
  void SetUp() override;
  void TearDown() override;
  std::string kind_of_node() const override { return GetParam().substr(0, GetParam().find('_')); }
  std::string telepad_program() const override { return programs_->telepad(); }
  std::string lay_cable(const std::string& listens_at) override;

  // The whole of one death.
  void check(const Case& one);

  // What is to be held, and what is true of how it ended.
  virtual Program start_program() = 0;
  // Whether whoever waits at home for what was killed need not wait for the node.
  virtual bool ends_at_once(Victim victim) const { return victim == Victim::kSnapshot; }
  virtual void judge(Victim victim, const Outcome& outcome) const = 0;

  telefork::session::Step step() const { return step_; }
  bool of_keeper() const;
  // Whether the process may have begun there when another is held at this step.
  bool may_run() const;
  // How often it has: it appends a byte to the file.
  int times_run() const;
  void note_run() const;

 private:
  pid_t await_stopped(const Program& program) const;
  void expect_guests_end_there() const;

  telefork::session::Step step_{};
  std::optional<SteppingPrograms> programs_;
  std::optional<Cable> cable_;  // of `tls`
};

}  // namespace fork_test
