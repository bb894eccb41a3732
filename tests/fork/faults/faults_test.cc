// Whoever dies, and wherever in the hand-over: the parent hears the truth.
#include <csignal>

#include <unistd.h>

#include "step_scene.h"

namespace fork_test {
namespace {

using telefork::session::Step;

constexpr int kChildsCode = 7;

constexpr Case kCases[] = {
    {Victim::kNobody, "nobody"},
    {Victim::kProgram, "the program"},
    {Victim::kSnapshot, "the snapshot"},
    {Victim::kAgents, "the agent and its sessions"},
    {Victim::kFirstAgent, "the agent"},
    {Victim::kKeepers, "the keepers"},
    {Victim::kTelepad, "the telepad"},
    {Victim::kCable, "the cable"},
    {Victim::kSilence, "what passes the cable"},
};

class AForkAtAStep : public AStep {
 protected:
  // Its stdout ends with one line: how the call, or the child, ended.
  Program start_program() override {
    return start([this] {
      const pid_t pid = telefork_fork(node().c_str());
      if (pid == 0) {
        note_run();
        _exit(kChildsCode);
      }
      write_all(1, pid < 0 ? std::string("failed: ") + telefork_error() : end_of(pid));
    });
  }
  void judge(Victim victim, const Outcome& outcome) const override;
};

void AForkAtAStep::judge(Victim victim, const Outcome& outcome) const {
  const int ran = times_run();
  EXPECT_LE(ran, 1) << "it ran twice";
  if (!may_run() && outcome.out != exited(kChildsCode) && victim != Victim::kProgram) {
    EXPECT_EQ(ran, 0) << "it ran, and yet: " << outcome.out;
  }
  if (victim == Victim::kProgram) {
    // It has its status, and may have come to its end before it was killed.
    if (step() == Step::kStatusSent && outcome.end == exited(0)) return;
    EXPECT_EQ(outcome.end, killed(SIGKILL));
    return;
  }
  EXPECT_EQ(outcome.end, exited(0)) << outcome.err;
  if (victim == Victim::kNobody) {
    EXPECT_EQ(outcome.out, exited(kChildsCode));
  }
  if (outcome.out == exited(kChildsCode)) {
    EXPECT_EQ(ran, 1);
    EXPECT_EQ(outcome.err, "");
  } else if (outcome.out == exited(125)) {
    EXPECT_TRUE(outcome.err.starts_with("telefork: ")) << "no reason: '" << outcome.err << "'";
  } else if (outcome.out.starts_with("failed: ")) {
    EXPECT_EQ(ran, 0);
    EXPECT_GT(outcome.out.size(), std::string("failed: ").size());
  } else {
    EXPECT_EQ(outcome.out, killed(SIGKILL));
    EXPECT_EQ(victim, Victim::kSnapshot);
  }
}

TEST_P(AForkAtAStep, EndsInOneTruthWhoeverDiesThere) {
  for (const Case& one : kCases) {
    if (kind_of_node() != "tls" && needs_cable(one.victim)) continue;
    check(one);
    if (HasFatalFailure()) return;
  }
}

const std::vector<Step> kSteps = {
    Step::kAsked,     Step::kChecked, Step::kForked,    Step::kFrozen,  Step::kAnnounced,
    Step::kDescribed, Step::kSent,    Step::kGivenUp,   Step::kGoSent,  Step::kHollowed,
    Step::kStartSeen, Step::kEndSeen, Step::kExpecting, Step::kArrived, Step::kWhole,
    Step::kReadySent, Step::kGoSeen,  Step::kReleased,  Step::kStarted, Step::kEnded,
    Step::kStatusSent};

INSTANTIATE_TEST_SUITE_P(At, AForkAtAStep, testing::ValuesIn(nodes_and_steps(kSteps)),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace fork_test
