#include "session/children.h"

#include <csignal>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace telefork::session {
namespace {

using ::testing::ElementsAre;

// A process that has a child, whose pid it tells, and waits; each in a session of its own where
// asked.
struct Family {
  explicit Family(bool own_session) {
    auto [from, to] = make_pipe();
    parent = ::fork();
    if (parent == 0) {
      if (own_session) ::setsid();
      pid_t forked = ::fork();
      if (forked != 0 && ::write(to.get(), &forked, sizeof(forked)) < 0) ::_exit(1);
      for (;;) ::pause();
    }
    EXPECT_EQ(::read(from.get(), &child, sizeof(child)), static_cast<ssize_t>(sizeof(child)));
  }
  void kill_parent() const {
    ::kill(parent, SIGKILL);
    siginfo_t info;
    ::waitid(P_PID, static_cast<id_t>(parent), &info, WEXITED | WNOWAIT);
  }

  pid_t parent = 0;
  pid_t child = 0;
};

std::vector<pid_t> reap(Children& children) {
  std::vector<pid_t> reaped;
  children.reap([&](pid_t pid) { reaped.push_back(pid); });
  return reaped;
}

bool is_nobody(pid_t) { return false; }

TEST(Children, KillWhatAKeeperLeaves) {
  Children children;
  Family keeper(false);
  children.add_keeper(keeper.parent);
  children.kill_orphans(is_nobody);
  EXPECT_THAT(reap(children), ElementsAre());
  EXPECT_FALSE(children.has_orphans());
  keeper.kill_parent();
  EXPECT_THAT(reap(children), ElementsAre(keeper.parent));
  EXPECT_TRUE(children.has_orphans());
  children.kill_orphans(is_nobody);
  EXPECT_TRUE(children.has_orphans());
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(keeper.child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_status, SIGKILL);
  EXPECT_THAT(reap(children), ElementsAre(keeper.child));
  children.kill_orphans(is_nobody);
  EXPECT_FALSE(children.has_orphans());
}

TEST(Children, LetWhatAnAgentLeavesLiveAndWhatOthersHaveStarted) {
  Children children;
  Family agent(true);
  children.add_agent(agent.parent);
  Family keeper(false);
  children.add_keeper(keeper.parent);
  Family others(false);
  agent.kill_parent();
  keeper.kill_parent();
  reap(children);
  for (int turn = 0; turn < 2; ++turn) {
    children.kill_orphans([&](pid_t pid) { return pid == others.parent; });
    if (turn == 0) {
      siginfo_t info;
      ::waitid(P_PID, static_cast<id_t>(keeper.child), &info, WEXITED | WNOWAIT);
      EXPECT_THAT(reap(children), ElementsAre(keeper.child));
    }
  }
  EXPECT_FALSE(children.has_orphans());
  for (pid_t pid : {agent.child, others.child, others.parent}) {
    EXPECT_EQ(::kill(pid, 0), 0);
    ::kill(pid, SIGKILL);
  }
}

}  // namespace
}  // namespace telefork::session
