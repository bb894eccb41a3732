#include "migrate/convergence.h"

#include <gtest/gtest.h>

namespace telefork::migrate {
namespace {

struct Course {
  unsigned rounds;
  bool converged;
};

// Of a process of `pages` that writes to `dirty` others a second, over a link that carries `rate`.
Course run(double pages, double dirty, double rate) {
  Convergence convergence;
  double left = pages;
  for (bool goes_on = true; goes_on;) {
    const Convergence::Seconds took(left / rate + 0.0005);
    goes_on = convergence.goes_on(static_cast<std::uint64_t>(left), took);
    left = std::min(pages, dirty * took.count());
  }
  return {convergence.rounds(), convergence.converged()};
}

TEST(Convergence, EndsAfterTwoRoundsOfAProcessThatDoesNotWrite) {
  const Course course = run(262144, 0, 250000);
  EXPECT_EQ(course.rounds, 2u);
  EXPECT_TRUE(course.converged);
}

TEST(Convergence, EndsWhenLittleIsLeft) {
  const Course course = run(262144, 20000, 250000);
  EXPECT_LE(course.rounds, 6u);
  EXPECT_TRUE(course.converged);
}

TEST(Convergence, GivesUpOnAProcessThatWritesFasterThanTheLinkCarries) {
  const Course course = run(262144, 400000, 250000);
  EXPECT_LE(course.rounds, 1 + Convergence::kMostInVain);
  EXPECT_FALSE(course.converged);
}

TEST(Convergence, GivesUpWhereRoundsHardlyGetShorter) {
  const Course course = run(262144, 240000, 250000);
  EXPECT_LE(course.rounds, 1 + Convergence::kMostInVain);
  EXPECT_FALSE(course.converged);
}

TEST(Convergence, HasAnEnd) {
  const Course course = run(1e9, 220000, 250000);
  EXPECT_LE(course.rounds, Convergence::kMostRounds);
}

TEST(Convergence, KnowsBothRates) {
  Convergence convergence;
  convergence.goes_on(100'000, Convergence::Seconds(0.5));
  convergence.goes_on(10'000, Convergence::Seconds(0.1));
  EXPECT_NEAR(convergence.link_rate(), 200'000, 1);
  EXPECT_NEAR(convergence.dirty_rate(), 20'000, 1);
}

}  // namespace
}  // namespace telefork::migrate
