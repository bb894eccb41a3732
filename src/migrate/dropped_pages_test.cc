#include "migrate/dropped_pages.h"

#include <algorithm>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace telefork::migrate {
namespace {

using kernel::PageRun;

class DroppedPagesTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kFirst = 1000;  // in the middle of a huge page's worth
  static constexpr std::uint64_t kLast = kFirst + 10'000;
  static constexpr std::uint64_t kLeastPages = DroppedPages::kLeast / kPageSize;

  static RemotePtr page(std::uint64_t number) { return RemotePtr(number * kPageSize); }
  void send(std::uint64_t first, std::uint64_t pages, bool has_content = true) {
    dropped_.note_sent({page(first), pages}, has_content);
  }
  void place(std::uint64_t pages) { dropped_.note_placed(pages * kPageSize); }
  // The numbers of the pages that are dropped now.
  std::vector<std::uint64_t> drop(std::uint64_t least = DroppedPages::kLeast) {
    std::vector<std::uint64_t> now;
    dropped_.drop(least, [&now](const PageRun& run) {
      const std::uint64_t first = run.start.value() / kPageSize;
      for (std::uint64_t i = 0; i < run.pages; ++i) now.push_back(first + i);
      return true;
    });
    return now;
  }

  ServedPages pages_{{{page(kFirst), page(kLast)}}, [](RemotePtr start, RemotePtr end) {
                       return std::vector<PageRun>{{start, (end - start) / kPageSize}};
                     }};
  DroppedPages dropped_{pages_};
};

// In whatever order they go: each once, and none before it is placed.
TEST_F(DroppedPagesTest, AreThoseThatArePlaced) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::vector<PageRun> runs;
  for (std::uint64_t at = kFirst; at < kLast;) {
    const std::uint64_t pages = std::min<std::uint64_t>(1 + random() % 256, kLast - at);
    runs.push_back({page(at), pages});
    at += pages;
  }
  std::shuffle(runs.begin(), runs.end(), random);
  for (const PageRun& run : runs) dropped_.note_sent(run, true);
  std::vector<bool> placed(kLast), gone(kLast);
  for (const PageRun& run : runs) {
    const std::uint64_t first = run.start.value() / kPageSize;
    if (run.pages > 1) {
      // A part of it is not enough.
      place(run.pages - 1);
      for (const std::uint64_t number : drop()) ASSERT_TRUE(placed[number]) << number;
      place(1);
    } else {
      place(1);
    }
    std::fill_n(placed.begin() + static_cast<std::ptrdiff_t>(first), run.pages, true);
    for (const std::uint64_t number : drop()) {
      ASSERT_TRUE(placed[number]) << number;
      ASSERT_FALSE(gone[number]) << number;
      gone[number] = true;
    }
  }
  const auto all_gone = static_cast<std::uint64_t>(std::count(gone.begin(), gone.end(), true));
  EXPECT_GT(all_gone, kLast - kFirst - kLeastPages);
}

TEST_F(DroppedPagesTest, AreManyAtOnce) {
  send(1024, kLeastPages);
  place(kLeastPages - 1);
  EXPECT_TRUE(drop().empty());
  place(1);
  EXPECT_EQ(drop().size(), kLeastPages);
  EXPECT_TRUE(drop().empty());
  send(8192, 512);
  place(512);
  EXPECT_TRUE(drop().empty());
  EXPECT_EQ(drop(0).size(), 512U);
}

TEST_F(DroppedPagesTest, AreWholeHugePages) {
  send(1024, 511);
  send(1536, kLeastPages);
  send(1535, 1);
  place(511 + kLeastPages);
  EXPECT_EQ(drop().front(), 1536U);
  place(1);
  // Too little by itself.
  EXPECT_TRUE(drop().empty());
  send(1536 + kLeastPages, kLeastPages);
  place(kLeastPages);
  EXPECT_EQ(drop().front(), 1024U);
}

TEST_F(DroppedPagesTest, AreZerosWhenSomethingBehindThemIsPlaced) {
  send(1024, 512);
  send(1536, kLeastPages, false);
  place(512);
  EXPECT_TRUE(drop().empty());
  send(1536 + kLeastPages, 2);
  place(1);
  EXPECT_EQ(drop().size(), 512 + kLeastPages);
}

TEST_F(DroppedPagesTest, AreNotMoreThanWereSent) {
  send(1024, 1024);
  place(1'000'000);
  send(2048, 2 * kLeastPages);
  place(2 * kLeastPages - 1);
  EXPECT_TRUE(drop().empty());
  place(1);
  EXPECT_EQ(drop().size(), 1024 + 2 * kLeastPages);
}

TEST_F(DroppedPagesTest, AreSaidAgainWhereNobodyHeard) {
  send(1024, kLeastPages);
  send(2048 + kLeastPages, 512);
  place(kLeastPages + 512);
  int asked = 0;
  dropped_.drop(DroppedPages::kLeast, [&asked](const PageRun&) { return ++asked < 2; });
  EXPECT_EQ(asked, 2);
  EXPECT_TRUE(drop().empty());
  send(1024 + kLeastPages, 1024);
  send(2560 + kLeastPages, 1024);
  place(2048);
  EXPECT_EQ(drop().front(), 2048 + kLeastPages);
}

}  // namespace
}  // namespace telefork::migrate
