#include "migrate/served_pages.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/testing_error.h"

namespace telefork::migrate {
namespace {

using kernel::PageRun;

RemotePtr page(std::uint64_t number) { return RemotePtr(number * kPageSize); }

// Pages 100 to 109 and 5000 to 9999 are served; there are 102, 103, 108, and all from 6000 on.
class ServedPagesTest : public testing::Test {
 protected:
  ServedPages make() {
    return ServedPages({{page(100), page(110)}, {page(5000), page(10000)}},
                       [this](RemotePtr start, RemotePtr end) {
                         ++looks_;
                         std::vector<PageRun> runs;
                         for (const PageRun& run : {PageRun{page(102), 2}, PageRun{page(108), 1},
                                                    PageRun{page(6000), 4000}}) {
                           const RemotePtr first = std::max(start, run.start);
                           const RemotePtr last = std::min(end, run.end());
                           if (first < last) runs.push_back({first, (last - first) / kPageSize});
                         }
                         return runs;
                       });
  }
  int looks_ = 0;
};

TEST_F(ServedPagesTest, PushesFromWhereItIsToldAndThenTheRest) {
  ServedPages pages = make();
  EXPECT_EQ(pages.next(page(7000), 100), (PageRun{page(7000), 100}));
  pages.mark_sent({page(7000), 3000});
  EXPECT_EQ(pages.next(page(7100), 100), (PageRun{page(102), 2}));
  pages.mark_sent({page(102), 2});
  EXPECT_EQ(pages.next(page(7100), 100), (PageRun{page(108), 1}));
  pages.mark_sent({page(108), 1});
  EXPECT_EQ(pages.next(page(7100), 2000), (PageRun{page(6000), 1000}));
  pages.mark_sent({page(6000), 1000});
  EXPECT_EQ(pages.next(page(0), 100), std::nullopt);
}

TEST_F(ServedPagesTest, AnswersWithWhatIsThere) {
  ServedPages pages = make();
  auto full = pages.answer(page(102), 16);
  ASSERT_TRUE(full);
  EXPECT_TRUE(full->has_content);
  EXPECT_EQ(full->run, (PageRun{page(102), 2}));
  auto empty = pages.answer(page(104), 16);
  ASSERT_TRUE(empty);
  EXPECT_FALSE(empty->has_content);
  EXPECT_EQ(empty->run, (PageRun{page(104), 4}));
  EXPECT_EQ(pages.answer(page(6010), 16)->run, (PageRun{page(6010), 16}));
  EXPECT_EQ(looks_, 2);
}

TEST_F(ServedPagesTest, AnswersNothingTwice) {
  ServedPages pages = make();
  pages.mark_sent({page(102), 1});
  EXPECT_FALSE(pages.answer(page(102), 16));
  EXPECT_TRUE(pages.answer(page(103), 16));
}

TEST_F(ServedPagesTest, WhatWentAheadIsNotPushedAndElseHoldsNothing) {
  ServedPages pages = make();
  pages.leave_out({page(100), 5});
  EXPECT_EQ(pages.next(page(100), 8), (PageRun{page(108), 1}));
  EXPECT_FALSE(pages.answer(page(103), 16)->has_content);
}

// A huge page's worth, or what of it is served; what went ahead is not waited for, nor what is not
// there.
TEST_F(ServedPagesTest, SaysWhatIsNotNeededWhenAllOfItIsPlaced) {
  ServedPages pages = make();
  pages.leave_out({page(103), 1});
  EXPECT_TRUE(pages.mark_placed({page(102), 1}).empty());
  EXPECT_EQ(pages.mark_placed({page(108), 1}), (std::vector<PageRun>{{page(100), 10}}));
  EXPECT_TRUE(pages.mark_placed({page(6144), 511}).empty());
  EXPECT_TRUE(pages.mark_placed({page(6000), 143}).empty());
  EXPECT_EQ(pages.mark_placed({page(6143), 1}), (std::vector<PageRun>{{page(5632), 512}}));
  EXPECT_EQ(pages.mark_placed({page(6655), 600}), (std::vector<PageRun>{{page(6144), 1024}}));
  EXPECT_EQ(pages.mark_placed({page(7255), 2745}), (std::vector<PageRun>{{page(7168), 2832}}));
}

TEST_F(ServedPagesTest, RefusesWhatIsNotServed) {
  ServedPages pages = make();
  EXPECT_EQ(error_of([&] { pages.answer(page(110), 1); }).code(), Code::kCorrupt);
  EXPECT_EQ(error_of([&] { pages.answer(page(0), 1); }).code(), Code::kCorrupt);
}

}  // namespace
}  // namespace telefork::migrate
