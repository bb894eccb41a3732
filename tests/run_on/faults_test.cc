// Whoever dies, and wherever on the way there and back: the program has come home changed, or it
// has an Error and its memory is as it was at the call. Never both, never neither.
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include "step_scene.h"

namespace fork_test {
namespace {

using telefork::session::Step;

constexpr Case kCases[] = {
    {Victim::kNobody, "nobody"},
    {Victim::kProgram, "the program"},
    {Victim::kAgents, "the agent and its sessions"},
    {Victim::kFirstAgent, "the agent"},
    {Victim::kKeepers, "the keepers"},
    {Victim::kGuest, "the guest"},
    {Victim::kTelepad, "the telepad"},
    {Victim::kCable, "the cable"},
    {Victim::kSilence, "what passes the cable"},
};

class ACallAtAStep : public AStep {
 protected:
  // Its stdout is one line: what came of the call, and which of two states the memory is in.
  Program start_program() override {
    return start([this] {
      std::vector<char> memory(3 << 20, 'h');
      std::atomic<bool> ends{false};
      std::thread other([&] {
        while (!ends) usleep(1000);
      });
      std::string text = "returned";
      try {
        telefork::run_on(node(), [&] {
          note_run();
          std::memset(memory.data(), 't', memory.size());
        });
      } catch (const telefork::Error& error) {
        text = std::string(error.code() == TELEFORK_GONE ? "gone: " : "failed: ") + error.what();
      }
      bool is_new = memory == std::vector<char>(memory.size(), 't');
      bool is_old = memory == std::vector<char>(memory.size(), 'h');
      ends = true;
      other.join();
      write_all(1, (is_new ? "new, " : is_old ? "old, " : "torn, ") + text);
    });
  }

  bool ends_at_once(Victim victim) const override { return victim == Victim::kProgram; }

  void judge(Victim victim, const Outcome& outcome) const override {
    const int ran = times_run();
    EXPECT_LE(ran, 1) << "it ran twice";
    // It runs again when all of it has been applied, for which home needs nothing more of a keeper
    // that has sent it; and it may be through before it is killed.
    const bool applies = step() == Step::kApplied || step() == Step::kSentHome;
    const bool may_be_through = applies && outcome.end == exited(0);
    if (victim == Victim::kProgram && !may_be_through) {
      EXPECT_EQ(outcome.end, killed(SIGKILL));
      return;
    }
    EXPECT_EQ(outcome.end, exited(0)) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    if (victim == Victim::kNobody) {
      EXPECT_EQ(outcome.out, "new, returned");
    }
    if (outcome.out == "new, returned") {
      EXPECT_EQ(ran, 1);
      return;
    }
    EXPECT_TRUE(outcome.out.starts_with("old, failed: ")) << outcome.out;
    EXPECT_GT(outcome.out.size(), std::string("old, failed: ").size());
    if (victim == Victim::kAgents && may_run()) {
      EXPECT_TRUE(outcome.out.find(node() + ": telefork's process here, which was to bring the "
                                            "answer, has ended") != std::string::npos &&
                  outcome.out.find("memory here is as it was at the call") != std::string::npos)
          << outcome.out;
    }
    if (!may_run()) {
      EXPECT_EQ(ran, 0) << "it ran, and yet: " << outcome.out;
    }
  }
};

TEST_P(ACallAtAStep, EndsInOneOfTwoStatesWhoeverDiesThere) {
  for (const Case& one : kCases) {
    if (kind_of_node() != "tls" && needs_cable(one.victim)) continue;
    check(one);
    if (HasFatalFailure()) return;
  }
}

const std::vector<Step> kSteps = {
    Step::kAsked,     Step::kChecked, Step::kFrozen,    Step::kAnnounced, Step::kDescribed,
    Step::kSent,      Step::kGivenUp, Step::kGoSent,    Step::kStartSeen, Step::kReturnSeen,
    Step::kTakenHome, Step::kApplied, Step::kExpecting, Step::kArrived,   Step::kWhole,
    Step::kReadySent, Step::kGoSeen,  Step::kReleased,  Step::kStarted,   Step::kCalledHome,
    Step::kHeld,      Step::kSentHome};

INSTANTIATE_TEST_SUITE_P(At, ACallAtAStep, testing::ValuesIn(nodes_and_steps(kSteps)),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace fork_test
