#include "migrate/missing_pages.h"

#include <tuple>
#include <vector>

#include <gtest/gtest.h>

namespace telefork::migrate {
namespace {

using kernel::PageRun;

RemotePtr page(std::uint64_t number) { return RemotePtr(number * kPageSize); }

using Placed = std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>>;

// At, source, pages; in pages.
Placed take(MissingPages& missing, std::uint64_t source, std::uint64_t pages) {
  Placed placed;
  missing.take(page(source), pages, [&](RemotePtr at, RemotePtr from, std::uint64_t count) {
    placed.emplace_back(at.value() / kPageSize, from.value() / kPageSize, count);
  });
  return placed;
}

TEST(MissingPages, AreWhereTheyWere) {
  MissingPages missing;
  missing.add(page(10), 4);
  EXPECT_EQ(missing.count(), 4u);
  EXPECT_EQ(missing.source_of(page(13)), page(13));
  EXPECT_EQ(missing.source_of(page(14)), std::nullopt);
  EXPECT_EQ(missing.source_of(page(9)), std::nullopt);
}

TEST(MissingPages, ComeOnce) {
  MissingPages missing;
  missing.add(page(10), 4);
  EXPECT_EQ(take(missing, 11, 2), (Placed{{11, 11, 2}}));
  EXPECT_EQ(take(missing, 9, 10), (Placed{{10, 10, 1}, {13, 13, 1}}));
  EXPECT_EQ(take(missing, 9, 10), Placed());
  EXPECT_EQ(missing.count(), 0u);
  EXPECT_EQ(missing.source_of(page(11)), std::nullopt);
}

TEST(MissingPages, MoveWithTheirMemory) {
  MissingPages missing;
  missing.add(page(10), 4);
  missing.move(page(11), page(50), 2 * kPageSize);
  EXPECT_EQ(missing.source_of(page(11)), std::nullopt);
  EXPECT_EQ(missing.source_of(page(50)), page(11));
  EXPECT_EQ(missing.source_of(page(51)), page(12));
  EXPECT_EQ(missing.count(), 4u);
  EXPECT_EQ(missing.moved_sources(), (std::vector<PageRun>{{page(11), 2}}));
  EXPECT_EQ(take(missing, 10, 4), (Placed{{10, 10, 1}, {13, 13, 1}, {50, 11, 2}}));
}

TEST(MissingPages, MoveOverOthers) {
  MissingPages missing;
  missing.add(page(10), 2);
  missing.add(page(20), 2);
  missing.move(page(10), page(21), 2 * kPageSize);
  EXPECT_EQ(missing.source_of(page(20)), page(20));
  EXPECT_EQ(missing.source_of(page(21)), page(10));
  EXPECT_EQ(missing.source_of(page(22)), page(11));
  EXPECT_EQ(missing.count(), 3u);
}

// mremap(2) never has the two overlap, but moves by less than its size in two steps may.
TEST(MissingPages, MoveASecondTime) {
  MissingPages missing;
  missing.add(page(10), 3);
  missing.move(page(10), page(30), 3 * kPageSize);
  missing.move(page(31), page(40), kPageSize);
  EXPECT_EQ(take(missing, 11, 1), (Placed{{40, 11, 1}}));
  EXPECT_EQ(missing.runs(page(0), page(100)), (std::vector<PageRun>{{page(30), 1}, {page(32), 1}}));
}

TEST(MissingPages, AreForgottenWhenTheyAreDropped) {
  MissingPages missing;
  missing.add(page(10), 10);
  missing.forget(page(12), page(14));
  EXPECT_EQ(missing.count(), 8u);
  EXPECT_EQ(missing.source_of(page(12)), std::nullopt);
  EXPECT_EQ(take(missing, 10, 10), (Placed{{10, 10, 2}, {14, 14, 6}}));
  missing.forget(page(0), page(100));
  EXPECT_EQ(missing.count(), 0u);
}

TEST(MissingPages, ArePutBackWhenTheyCouldNotBePlaced) {
  MissingPages missing;
  missing.add(page(10), 4);
  EXPECT_EQ(take(missing, 10, 4), (Placed{{10, 10, 4}}));
  missing.put_back(page(12), 2);
  EXPECT_EQ(missing.count(), 2u);
  missing.move(page(12), page(40), 2 * kPageSize);
  EXPECT_EQ(take(missing, 10, 4), (Placed{{40, 12, 2}}));
}

TEST(MissingPages, AreKnownUntilTheirMemoryIsGone) {
  MissingPages missing;
  missing.add(page(10), 4);
  take(missing, 10, 4);
  EXPECT_TRUE(missing.knows_any(page(13), page(20)));
  EXPECT_TRUE(missing.knows_any(page(0), page(11)));
  EXPECT_FALSE(missing.knows_any(page(14), page(20)));
  EXPECT_FALSE(missing.knows_any(page(0), page(10)));
  missing.move(page(10), page(30), 2 * kPageSize);
  EXPECT_FALSE(missing.knows_any(page(10), page(12)));
  missing.forget(page(12), page(14));
  EXPECT_FALSE(missing.knows_any(page(0), page(30)));
  EXPECT_TRUE(missing.knows_any(page(0), page(100)));
}

TEST(MissingPages, ForgettingPassesOverWhatIsNotMissing) {
  MissingPages missing;
  missing.add(page(10), 4);
  EXPECT_EQ(take(missing, 11, 1), (Placed{{11, 11, 1}}));
  missing.forget(page(5), page(12));
  EXPECT_EQ(missing.count(), 2u);
  EXPECT_EQ(missing.runs(page(0), page(13)), (std::vector<PageRun>{{page(12), 1}}));
}

}  // namespace
}  // namespace telefork::migrate
