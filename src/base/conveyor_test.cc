#include "base/conveyor.h"

#include <memory>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

namespace telefork {
namespace {

using Box = std::unique_ptr<int>;

class ConveyorTest : public ::testing::Test {
 protected:
  ConveyorTest() {
    for (int i = 0; i < 2; ++i) conveyor_.give_back(std::make_unique<int>(0));
  }
  void hand_over_numbers(int count) {
    for (int i = 0; i < count; ++i) {
      Box box = conveyor_.take_empty();
      *box = i;
      conveyor_.hand_over(std::move(box));
    }
  }

  Conveyor<Box> conveyor_;
};

TEST_F(ConveyorTest, BringsEverythingInOrder) {
  std::vector<int> used;
  conveyor_.run([&] { hand_over_numbers(1000); },
                [&](Box box) {
                  used.push_back(*box);
                  conveyor_.give_back(std::move(box));
                });
  ASSERT_EQ(used.size(), 1000U);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(used[static_cast<std::size_t>(i)], i);
}

TEST_F(ConveyorTest, ReturnsWhenNothingWasHandedOver) {
  conveyor_.run([] {}, [](const Box&) { FAIL(); });
}

TEST_F(ConveyorTest, ThrowsWhatTheFillerThrewOnceAllBeforeItWasUsed) {
  int used = 0;
  auto fill = [&] {
    hand_over_numbers(5);
    throw std::runtime_error("no more");
  };
  auto use = [&](Box box) {
    ++used;
    conveyor_.give_back(std::move(box));
  };
  EXPECT_THROW(conveyor_.run(fill, use), std::runtime_error);
  EXPECT_EQ(used, 5);
}

TEST_F(ConveyorTest, EndsTheFillerThatWaitsWhenTheUserThrows) {
  auto use = [](const Box&) { throw std::logic_error("full disk"); };
  EXPECT_THROW(conveyor_.run([&] { hand_over_numbers(1000); }, use), std::logic_error);
}

TEST_F(ConveyorTest, ThrowsWhatTheUserThrewEvenIfTheFillerThrewToo) {
  auto fill = [&] {
    hand_over_numbers(1);
    throw std::runtime_error("no more");
  };
  auto use = [](const Box&) { throw std::logic_error("full disk"); };
  EXPECT_THROW(conveyor_.run(fill, use), std::logic_error);
}

}  // namespace
}  // namespace telefork
