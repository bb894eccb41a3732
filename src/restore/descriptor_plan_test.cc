#include "restore/descriptor_plan.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::restore {
namespace {

using Kind = NumberStep::Kind;

struct Open {
  std::size_t file;
  bool close_on_exec;
  auto operator<=>(const Open&) const = default;
};
using Numbers = std::map<int, Open>;

// What the kernel would make of the steps; fails where one of them cannot be done.
Numbers take_steps(const std::vector<int>& given, const std::vector<NumberStep>& steps, int limit) {
  Numbers open;
  for (std::size_t file = 0; file < given.size(); ++file) open[given[file]] = {file, true};
  for (const NumberStep& step : steps) {
    EXPECT_EQ(open.count(step.from), 1U) << step.from << " is not open";
    switch (step.kind) {
      case Kind::kCopy:
        EXPECT_NE(step.from, step.to);
        EXPECT_LT(step.to, limit);
        open[step.to] = {open[step.from].file, step.close_on_exec};
        break;
      case Kind::kClose:
        open.erase(step.from);
        break;
      case Kind::kKeepOnExec:
        open[step.from].close_on_exec = false;
        break;
    }
  }
  return open;
}

void expect_reached(const std::vector<int>& given, const std::vector<WantedNumber>& wanted,
                    int limit) {
  Numbers expected;
  for (const WantedNumber& one : wanted) expected[one.number] = {one.file, one.close_on_exec};
  EXPECT_EQ(take_steps(given, plan_numbers(given, wanted, limit), limit), expected);
}

TEST(DescriptorPlan, TouchesNothingThatIsInPlace) {
  EXPECT_TRUE(plan_numbers({3, 4}, {{3, 0, true}, {4, 1, true}}, 5).empty());
  expect_reached({3, 4}, {{3, 0, true}, {4, 1, false}}, 5);
}

TEST(DescriptorPlan, ClosesWhatNobodyWants) { expect_reached({3, 4}, {{4, 0, false}}, 5); }

TEST(DescriptorPlan, MovesAChainWithoutASpareNumber) {
  expect_reached({0, 1, 2}, {{1, 0, true}, {2, 1, false}, {3, 2, true}}, 4);
}

TEST(DescriptorPlan, TurnsARingByOneSpareNumber) {
  const std::vector<WantedNumber> ring = {{1, 0, true}, {2, 1, false}, {0, 2, true}};
  expect_reached({0, 1, 2}, ring, 4);
  try {
    plan_numbers({0, 1, 2}, ring, 3);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kResources);
    EXPECT_EQ(error.text(),
              "there is no descriptor left here (limit nofile is 3): Too many open files");
    EXPECT_EQ(error.error(), EMFILE);
  }
}

TEST(DescriptorPlan, ReachesWhateverIsWanted) {
  unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const int limit = 2 + static_cast<int>(random() % 20);
    std::vector<int> numbers;
    for (int i = 0; i + 1 < limit; ++i) numbers.push_back(i);
    std::shuffle(numbers.begin(), numbers.end(), random);
    const std::vector<int> given(numbers.begin(),
                                 numbers.begin() + 1 + static_cast<int>(random() % numbers.size()));
    std::shuffle(numbers.begin(), numbers.end(), random);
    numbers.resize(random() % (numbers.size() + 1));
    std::vector<WantedNumber> wanted;
    for (int number : numbers) {
      wanted.push_back({number, random() % given.size(), random() % 2 == 0});
    }
    expect_reached(given, wanted, limit);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace telefork::restore
