// A `telefork move` that is held at a step of either end (session/steps.h), where one of them is
// killed; then what is left of both goes on.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "session/steps.h"
#include "victim_process.h"

namespace victims {

struct FaultCase {
  telefork::session::Step step;  // who is held at it says which end it is
  enum class Killed { kSession, kKeeper } killed;
};

bool is_of_keeper(telefork::session::Step step);
// Those that a move reaches at either end, up to when the process is there; one whose memory
// follows it reaches the same, and that this is all there.
std::vector<telefork::session::Step> steps_of_move();
std::vector<telefork::session::Step> steps_of_lazy_move();
// Whether it is given up by then for certain.
bool is_given_up(telefork::session::Step step);
// Where it may end only there, or, with its node lost, nowhere: from when it was told to run there.
bool may_be_lost(const FaultCase& fault);
// The command stands for it from the beginning to the end. `held` is false where it did not come to
// the step.
struct FaultyMove {
  bool held = false;
  Finished end;
};
FaultyMove move_with_fault(std::vector<std::string> command, const FaultCase& fault);
// Of a move that was refused, where nobody is killed: keepers that are held go on, and end.
void let_keepers_go();

}  // namespace victims
