// The programs of this build once more, of which agents and keepers stop themselves (SIGSTOP) at a
// step of a hand-over (session/steps.h) when the environment of whoever starts them says so.
//
//     SteppingPrograms programs;
//     setenv(SteppingPrograms::kKeeper, "--stop-at-step go_seen", 1);
//     ... start programs.telepad() ...
#pragma once

#include <string>

namespace fork_test {

class SteppingPrograms {
 public:
  // What is added to the arguments of those who are started with it.
  static constexpr const char* kAgent = "TELEFORK_TEST_AGENT";
  static constexpr const char* kKeeper = "TELEFORK_TEST_KEEPER";

  SteppingPrograms();
  ~SteppingPrograms();
  SteppingPrograms(const SteppingPrograms&) = delete;
  SteppingPrograms& operator=(const SteppingPrograms&) = delete;

  std::string telepad() const { return folder_ + "/bin/telepad"; }
  std::string agent() const { return folder_ + "/libexec/telefork/telefork-agent"; }

 private:
  std::string folder_;
};

}  // namespace fork_test
