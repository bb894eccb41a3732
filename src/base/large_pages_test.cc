#include "base/large_pages.h"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

namespace telefork {
namespace {

// From small to large memory and beyond, with what lies in it.
TEST(LargePages, HoldATableThatGrows) {
  constexpr std::uint64_t kCount = 3 * kHugePageSize / sizeof(std::uint64_t);
  std::vector<std::uint64_t, LargePages<std::uint64_t>> table;
  for (std::uint64_t i = 0; i < kCount; ++i) table.push_back(i);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(table.data()) % kHugePageSize, 0u);
  table.resize(kCount + 1);  // which is any number
  for (std::uint64_t i = 0; i < kCount; ++i) ASSERT_EQ(table[i], i);
  table.resize(1);
  table.shrink_to_fit();
  EXPECT_EQ(table, (std::vector<std::uint64_t, LargePages<std::uint64_t>>{0}));
}

}  // namespace
}  // namespace telefork
