#include "session/believed_flags.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::session {
namespace {

using kernel::Vma;
using kernel::VmFlag;

constexpr std::uint64_t bit(VmFlag flag) { return static_cast<std::uint64_t>(flag); }

Vma memory(std::uint64_t start, std::uint64_t end, std::uint64_t flags = 0) {
  Vma vma;
  vma.start = RemotePtr(start);
  vma.end = RemotePtr(end);
  vma.read = true;
  vma.write = true;
  vma.flags = flags;
  return vma;
}

std::vector<capture::Mapping> mappings_of(const std::vector<Vma>& map) {
  std::vector<capture::Mapping> mappings;
  for (const Vma& vma : map) {
    mappings.push_back({vma, image::schema::Vma::Kind::ANONYMOUS, std::nullopt, 0});
  }
  return mappings;
}

TEST(BelievedFlags, AreThoseOfWhatWasThereBefore) {
  std::vector<Vma> map = {memory(0x1000, 0x3000), memory(0x8000, 0x9000)};
  ASSERT_TRUE(believe_flags({memory(0x1000, 0x2000, bit(VmFlag::kDontDump))}, map));
  EXPECT_TRUE(map[0].has(VmFlag::kDontDump) && map[0].has(VmFlag::kWrite));
  EXPECT_FALSE(map[1].has(VmFlag::kDontDump));
  EXPECT_TRUE(map[1].has(VmFlag::kMayExecute));
}

TEST(BelievedFlags, AreOfTheProtectionThatItHasNow) {
  std::vector<Vma> map = {memory(0x1000, 0x3000)};
  map[0].write = false;
  ASSERT_TRUE(believe_flags({memory(0x1000, 0x3000, bit(VmFlag::kWrite))}, map));
  EXPECT_FALSE(map[0].has(VmFlag::kWrite));
}

TEST(BelievedFlags, AreOfNoFileThatWasNotThere) {
  std::vector<Vma> map = {memory(0x1000, 0x3000)};
  map[0].inode = 7;
  map[0].path = "/file";
  EXPECT_FALSE(believe_flags({memory(0x5000, 0x6000)}, map));
  EXPECT_TRUE(believe_flags({memory(0x1000, 0x3000)}, map));
  map[0].shared = true;
  EXPECT_FALSE(believe_flags({memory(0x1000, 0x3000)}, map));
}

TEST(BelievedFlags, AreCorrectedWhereTheyAreOthers) {
  std::vector<Vma> map = {memory(0x1000, 0x2000), memory(0x4000, 0x5000), memory(0x6000, 0x7000)};
  ASSERT_TRUE(believe_flags({}, map));
  std::vector<Vma> smaps = map;
  smaps[0].flags |= bit(VmFlag::kAccount) | bit(VmFlag::kSoftDirty) | bit(VmFlag::kUffdWp);
  smaps[1].flags |= bit(VmFlag::kLocked);
  smaps[2].protection_key = 3;
  const auto others = find_other_flags(smaps, mappings_of(map));
  ASSERT_EQ(others.size(), 2U);
  EXPECT_EQ(others[0].first, 1U);
  EXPECT_TRUE(others[0].second.has(VmFlag::kLocked));
  EXPECT_EQ(others[1].second.protection_key, 3);
}

TEST(BelievedFlags, AreFoundInWhatHasBecomeOneWithItsNeighbour) {
  std::vector<Vma> map = {memory(0x4000, 0x5000)};
  ASSERT_TRUE(believe_flags({}, map));
  std::vector<Vma> smaps = {memory(0x2000, 0x5000, map[0].flags)};
  EXPECT_TRUE(find_other_flags(smaps, mappings_of(map)).empty());
  smaps[0].end = RemotePtr(0x4800);
  EXPECT_THROW(find_other_flags(smaps, mappings_of(map)), Error);
}

}  // namespace
}  // namespace telefork::session
