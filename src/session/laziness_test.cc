#include "session/laziness.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::session {
namespace {

constexpr std::uint64_t kMegabyte = 1024;  // in KB
constexpr const char* kNoWay = "it has no userfaultfd";

TEST(Laziness, IsByItselfThatOfLargeProcesses) {
  const Laziness laziness;
  EXPECT_TRUE(laziness.choose(Mode::kAutomatic, 16 * kMegabyte, "node7", "").lazy);
  const auto small = laziness.choose(Mode::kAutomatic, 16 * kMegabyte - 1, "node7", "");
  EXPECT_FALSE(small.lazy);
  EXPECT_EQ(small.why_not, "it is smaller than the settings say");
}

TEST(Laziness, SaysWhyItCannotBe) {
  const auto choice = Laziness().choose(Mode::kAutomatic, 16 * kMegabyte, "node7", kNoWay);
  EXPECT_FALSE(choice.lazy);
  EXPECT_EQ(choice.why_not, kNoWay);
}

TEST(Laziness, IsOfWhatSizeTheSettingsSay) {
  Laziness laziness;
  laziness.process_kb = 0;
  EXPECT_TRUE(laziness.choose(Mode::kAutomatic, 0, "node7", "").lazy);
  laziness.process_kb = Laziness::kNever;
  const auto choice = laziness.choose(Mode::kAutomatic, 1024 * kMegabyte, "node7", "");
  EXPECT_FALSE(choice.lazy);
  EXPECT_EQ(choice.why_not, "it was not asked for");
}

TEST(Laziness, IsWhatWasAskedForOrRefused) {
  const Laziness laziness;
  EXPECT_TRUE(laziness.choose(Mode::kLazy, 0, "node7", "").lazy);
  EXPECT_FALSE(laziness.choose(Mode::kEager, 1024 * kMegabyte, "node7", "").lazy);
  try {
    laziness.choose(Mode::kLazy, 0, "node7", kNoWay);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kRefused);
    EXPECT_EQ(error.text(), "mode lazy, node7: it has no userfaultfd");
  }
}

}  // namespace
}  // namespace telefork::session
