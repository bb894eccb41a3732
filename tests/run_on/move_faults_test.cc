// Whoever dies, and wherever on the way: a process that moves itself and its child are both here,
// and it has an Error, or both there. Or both have ended, where that is what is left of it.
#include <csignal>
#include <cstring>
#include <string>
#include <vector>

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "step_scene.h"

namespace fork_test {
namespace {

using telefork::session::Step;

constexpr Case kMoveCases[] = {
    {Victim::kNobody, "nobody"},
    {Victim::kProgram, "the program"},
    {Victim::kAgents, "the agent and its sessions"},
    {Victim::kKeepers, "the keepers"},
};

std::string space_of_pids() {
  char text[64] = "";
  require(readlink("/proc/self/ns/pid", text, sizeof text - 1) > 0);
  return text;
}

// Says where it is, once it is asked.
pid_t begin_child(int asked, int parents_end) {
  const pid_t child = fork();
  require(child >= 0);
  if (child != 0) return child;
  close(parents_end);
  char byte;
  require(recv(asked, &byte, 1, 0) == 1);
  const std::string where = space_of_pids();
  require(send(asked, where.data(), where.size(), 0) == static_cast<ssize_t>(where.size()));
  _exit(7);
}

class AMoveAtAStep : public AStep {
 protected:
  // Its stdout is one line: where both are, and why.
  Program start_program() override {
    return start([this] {
      const std::string here = space_of_pids();
      int ends[2];
      require(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
      const pid_t child = begin_child(ends[1], ends[0]);
      close(ends[1]);
      std::string text = "there";
      try {
        telefork::move_to(node());
        note_run();
      } catch (const telefork::Error& error) {
        text = std::string("here: ") + error.what();
      }
      require_equal(space_of_pids() == here, text != "there");
      require(send(ends[0], "?", 1, MSG_NOSIGNAL) == 1);
      char where[64];
      const ssize_t count = recv(ends[0], where, sizeof where, 0);
      require(count > 0);
      require_equal(std::string(where, static_cast<std::size_t>(count)), space_of_pids());
      int status = 0;
      require(waitpid(child, &status, 0) == child);
      require_equal(status, 7 << 8);
      require(close(ends[0]) == 0);
      write_all(1, text);
    });
  }

  // Both may have ended.
  bool may_be_lost(Victim victim) const {
    switch (victim) {
      case Victim::kProgram:
        return true;
      case Victim::kAgents:
        // Until it is decided what waits here goes on when its lease is over.
        return step() == Step::kDecided || step() == Step::kOneHollow ||
               step() == Step::kHollowed || of_keeper();
      default:
        return may_run();
    }
  }

  void judge(Victim victim, const Outcome& outcome) const override {
    EXPECT_LE(times_run(), 1) << "it ran there twice";
    if (outcome.end != exited(0)) {
      EXPECT_TRUE(may_be_lost(victim)) << outcome.end << ": " << outcome.err;
      EXPECT_TRUE(outcome.end == exited(125) || outcome.end == killed(SIGKILL))
          << outcome.end << ": " << outcome.err;
      return;
    }
    if (victim == Victim::kNobody) {
      EXPECT_EQ(outcome.out, "there");
    }
    if (outcome.out == "there") {
      EXPECT_EQ(times_run(), 1);
      return;
    }
    EXPECT_TRUE(outcome.out.starts_with("here: ")) << outcome.out;
    EXPECT_FALSE(is_decided()) << outcome.out;
    if (!may_be_taken_back(victim)) {
      EXPECT_EQ(times_run(), 0) << "it ran there, and yet: " << outcome.out;
    }
  }

 private:
  // From then on it does not run here any more.
  bool is_decided() const {
    return step() == Step::kDecided || step() == Step::kOneHollow || step() == Step::kHollowed;
  }

  // Whether it may have run there, and goes on here from where it left: between go and the decision
  // it runs there until the link is lost, is ended with that, and here nobody has heard of it.
  bool may_be_taken_back(Victim victim) const {
    const bool had_not_begun = victim == Victim::kKeepers && of_keeper() && step() <= Step::kGoSeen;
    return may_run() && !had_not_begun;
  }
};

TEST_P(AMoveAtAStep, IsOfBothOrOfNoneWhoeverDiesThere) {
  for (const Case& one : kMoveCases) {
    check(one);
    if (HasFatalFailure()) return;
  }
}

// The link is a call's.
std::vector<std::string> nodes_without_cable() {
  std::vector<std::string> all = nodes_and_steps(
      {Step::kChecked, Step::kAnnounced, Step::kFrozen, Step::kDescribed, Step::kSent,
       Step::kGivenUp, Step::kGoSent, Step::kStartSeen, Step::kDecided, Step::kOneHollow,
       Step::kHollowed, Step::kExpecting, Step::kArrived, Step::kWhole, Step::kReadySent,
       Step::kGoSeen, Step::kReleased, Step::kStarted});
  std::erase_if(all, [](const std::string& name) { return name.starts_with("tls"); });
  return all;
}

INSTANTIATE_TEST_SUITE_P(At, AMoveAtAStep, testing::ValuesIn(nodes_without_cable()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace fork_test
