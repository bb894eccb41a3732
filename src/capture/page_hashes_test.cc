#include "capture/page_hashes.h"

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mapped_region.h"
#include "kernel/abi.h"

namespace telefork::capture {
namespace {

using kernel::PageRun;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::size_t kPages = 200;  // more than are read at once

// Memory of this very process.
class Hashed : public ::testing::Test {
 protected:
  Hashed() : memory_(kPages * kPageSize), hashes_(::getpid(), kernel::PageMapAbi::kEntries) {}

  kernel::Vma vma() {
    kernel::Vma vma{};
    vma.start = RemotePtr(reinterpret_cast<std::uint64_t>(memory_.data()));
    vma.end = vma.start + memory_.size();
    return vma;
  }
  std::byte* page(std::size_t number) { return memory_.data() + number * kPageSize; }
  PageRun run(std::size_t first, std::uint64_t pages) {
    return {vma().start + first * kPageSize, pages};
  }
  void fill(std::size_t first, std::size_t pages) {
    std::memset(page(first), 1, pages * kPageSize);
  }
  // False where this kernel cannot.
  bool guard(std::size_t number) {
    return ::madvise(page(number), kPageSize, kernel::kMadvGuardInstall) == 0;
  }

  MappedRegion memory_;
  PageHashes hashes_;
};

TEST_F(Hashed, SeesNothingWhereThingsAreAsTheyWere) {
  fill(0, kPages);
  hashes_.begin(vma());
  *page(7) = std::byte{2};
  *page(7) = std::byte{1};
  ChangedPages changed = hashes_.changed(vma());
  EXPECT_THAT(changed.written, IsEmpty());
  EXPECT_THAT(changed.dropped, IsEmpty());
}

TEST_F(Hashed, SeesWhatWasWrittenDroppedAndBegun) {
  fill(0, 150);
  hashes_.begin(vma());
  page(3)[kPageSize - 1] = std::byte{2};
  page(64)[0] = std::byte{2};
  page(65)[0] = std::byte{2};
  page(170)[9] = std::byte{2};
  ASSERT_EQ(::madvise(page(100), 2 * kPageSize, MADV_DONTNEED), 0);
  ChangedPages changed = hashes_.changed(vma());
  EXPECT_THAT(changed.written, ElementsAre(run(3, 1), run(64, 2), run(170, 1)));
  EXPECT_THAT(changed.dropped, ElementsAre(run(100, 2)));
}

TEST_F(Hashed, KnowsNothingOfWhatLiesElsewhere) {
  fill(0, kPages);
  kernel::Vma first = vma(), last = vma(), all = vma();
  first.end = first.start + 10 * kPageSize;
  last.start = last.end - 10 * kPageSize;
  hashes_.begin(first);
  hashes_.begin(last);
  EXPECT_THAT(hashes_.changed(last).written, IsEmpty());
  EXPECT_THAT(hashes_.changed(first).written, IsEmpty());
  EXPECT_THAT(hashes_.changed(all).written, ElementsAre(run(10, kPages - 20)));
}

TEST_F(Hashed, TakesGuardPagesForEmptyOnes) {
  fill(0, kPages);
  if (!guard(20)) GTEST_SKIP() << "needs: MADV_GUARD_INSTALL (Linux 6.13)";
  hashes_.begin(vma());
  EXPECT_THAT(hashes_.changed(vma()).written, IsEmpty());
  ASSERT_TRUE(guard(30));
  ChangedPages changed = hashes_.changed(vma());
  EXPECT_THAT(changed.written, IsEmpty());
  EXPECT_THAT(changed.dropped, ElementsAre(run(30, 1)));
}

}  // namespace
}  // namespace telefork::capture
