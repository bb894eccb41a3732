#include "image/tree_plan.h"

#include <map>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace telefork::image {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = TreeStep::Kind;

constexpr std::uint32_t kChildSignal = 17;

TreeMember member(std::uint32_t id, std::uint32_t parent, std::uint32_t group,
                  std::uint32_t session) {
  return {id, parent, group, session, kChildSignal};
}

// What the kernel would have made of the steps, and whether it would have let them happen.
class Kernel {
 public:
  explicit Kernel(const TreeMember& root) {
    processes_[root.id] = {root.parent, root.group, root.session};
  }

  void run(const TreeStep& step) {
    switch (step.kind) {
      case Kind::kMake:
      case Kind::kMakeSibling: {
        ASSERT_TRUE(processes_.contains(step.other)) << step.other;
        ASSERT_FALSE(processes_.contains(step.id)) << step.id;
        Process child = processes_.at(step.other);
        if (step.kind == Kind::kMake) child.parent = step.other;
        processes_[step.id] = child;
        return;
      }
      case Kind::kNewSession:
        ASSERT_FALSE(has_group(step.id)) << step.id;
        processes_.at(step.id).session = processes_.at(step.id).group = step.id;
        return;
      case Kind::kNewGroup:
        join(step.id, step.id);
        return;
      case Kind::kJoinGroup:
        join(step.id, step.other);
        return;
      case Kind::kEnd:
        ASSERT_EQ(processes_.at(step.id).parent, step.other);
        processes_.erase(step.id);
        return;
    }
  }

  std::map<std::uint32_t, TreeMember> members() const {
    std::map<std::uint32_t, TreeMember> all;
    for (const auto& [id, process] : processes_) {
      all[id] = member(id, process.parent, process.group, process.session);
    }
    return all;
  }

 private:
  struct Process {
    std::uint32_t parent, group, session;
  };
  bool has_group(std::uint32_t group) const {
    return std::any_of(processes_.begin(), processes_.end(),
                       [&](const auto& entry) { return entry.second.group == group; });
  }
  // setpgid(2)
  void join(std::uint32_t id, std::uint32_t group) {
    Process& process = processes_.at(id);
    ASSERT_NE(process.session, id) << "a leader of a session";
    const bool there = std::any_of(processes_.begin(), processes_.end(), [&](const auto& entry) {
      return entry.second.group == group && entry.second.session == process.session;
    });
    ASSERT_TRUE(group == id || there) << group;
    process.group = group;
  }

  std::map<std::uint32_t, Process> processes_;
};

void expect_made(const std::vector<TreeMember>& members) {
  const TreePlan plan = plan_tree(members);
  for (const TreeTrouble& trouble : plan.troubles) ADD_FAILURE() << trouble.id << trouble.why;
  Kernel kernel(members.front());
  for (const TreeStep& step : plan.steps) kernel.run(step);
  const auto made = kernel.members();
  EXPECT_EQ(made.size(), members.size());
  for (const TreeMember& wanted : members) {
    ASSERT_TRUE(made.contains(wanted.id)) << wanted.id;
    const TreeMember& have = made.at(wanted.id);
    EXPECT_EQ(have.parent, wanted.parent) << wanted.id;
    EXPECT_EQ(have.group, wanted.group) << wanted.id;
    EXPECT_EQ(have.session, wanted.session) << wanted.id;
  }
}

std::string trouble_of(const std::vector<TreeMember>& members) {
  const TreePlan plan = plan_tree(members);
  return plan.troubles.empty()
             ? ""
             : fmt::format("{}: {}", plan.troubles.front().id, plan.troubles.front().why);
}

TEST(TreePlan, MakesNothingOfOneProcess) {
  EXPECT_TRUE(plan_tree(std::vector{member(10, 1, 10, 5)}).steps.empty());
}

TEST(TreePlan, HasChildrenBornWhereTheyStay) {
  const std::vector members = {member(10, 1, 10, 5), member(11, 10, 10, 5)};
  EXPECT_THAT(plan_tree(members).steps, ElementsAre(TreeStep{Kind::kMake, 11, 10, kChildSignal}));
}

TEST(TreePlan, MakesTheJobsOfAShell) {
  expect_made({member(10, 1, 10, 10), member(11, 10, 11, 10), member(12, 10, 11, 10),
               member(13, 10, 13, 10), member(14, 13, 13, 10)});
}

TEST(TreePlan, HasChildrenOfBeforeASessionBornBeforeIt) {
  expect_made({member(10, 1, 10, 5), member(11, 10, 11, 11), member(12, 11, 10, 5),
               member(13, 11, 11, 11), member(14, 12, 14, 14), member(15, 14, 10, 5)});
}

TEST(TreePlan, JoinsGroupsThatComeLater) {
  expect_made(
      {member(10, 1, 10, 5), member(11, 10, 13, 5), member(12, 11, 13, 5), member(13, 10, 13, 5)});
}

TEST(TreePlan, HasAHelperHoldAGroupWhoseLeaderHasEnded) {
  expect_made({member(10, 1, 10, 10), member(12, 10, 11, 10), member(13, 10, 11, 10)});
}

TEST(TreePlan, HasAHelperBeginASessionWhoseLeaderHasEnded) {
  expect_made({member(10, 1, 10, 5), member(12, 10, 11, 11), member(13, 12, 11, 11),
               member(14, 10, 14, 11)});
}

TEST(TreePlan, BringsOrphansToTheirReaperFromTheSessionOfASibling) {
  expect_made({member(10, 1, 10, 5), member(11, 10, 11, 11), member(12, 10, 12, 11),
               member(13, 12, 12, 11)});
}

TEST(TreePlan, LetsALeaderOfAGroupHaveGoneToAnother) {
  expect_made(
      {member(10, 1, 10, 5), member(11, 10, 13, 5), member(12, 10, 11, 5), member(13, 10, 13, 5)});
}

TEST(TreePlan, TellsWhoseSessionIsOutOfReach) {
  // 13 was a grandchild of 11's, and is the first one's since its parent has ended.
  EXPECT_THAT(trouble_of({member(10, 1, 10, 5), member(11, 10, 11, 5), member(12, 11, 12, 12),
                          member(13, 10, 12, 12)}),
              HasSubstr("13: it is in session 12, and its parent 10 is not"));
}

TEST(TreePlan, TellsWhoseGroupIsOfAnotherSession) {
  EXPECT_THAT(trouble_of({member(10, 1, 10, 5), member(11, 10, 11, 11), member(12, 10, 11, 5)}),
              HasSubstr("12: its process group 11 is in another session"));
}

TEST(TreePlan, TakesASessionAndAGroupThatAreNotSeenForTheFirstProcesss) {
  expect_made({member(10, 0, 0, 0), member(11, 10, 0, 0), member(12, 11, 12, 0),
               member(13, 11, 13, 13), member(14, 13, 14, 0)});
  EXPECT_THAT(trouble_of({member(10, 1, 10, 5), member(11, 10, 0, 0)}),
              HasSubstr("11: its session is another one than its parent's"));
}

TEST(TreePlan, TellsWhoHasNoParent) {
  EXPECT_THAT(trouble_of({member(10, 1, 10, 5), member(11, 12, 10, 5)}),
              HasSubstr("11: its parent"));
  EXPECT_THAT(trouble_of({member(10, 1, 10, 5), member(10, 10, 10, 5)}), HasSubstr("two of it"));
  EXPECT_THAT(trouble_of({}), HasSubstr("no process"));
}

}  // namespace
}  // namespace telefork::image
