#include "capture/wanted_memory.h"

#include <gtest/gtest.h>

namespace telefork::capture {
namespace {

using kernel::VmFlag;
using VmaKind = image::schema::Vma::Kind;
using Pages = std::map<unsigned, std::uint64_t>;

constexpr std::uint64_t kTwoMb = std::uint64_t{2} << 20;

Mapping huge_mapping(VmaKind kind, std::uint64_t offset, std::uint64_t pages) {
  Mapping mapping{{}, kind, std::nullopt, 0};
  mapping.vma.flags = static_cast<std::uint64_t>(VmFlag::kHugeTlb);
  mapping.vma.kernel_page_kb = 2048;
  mapping.vma.shared = kind != VmaKind::ANONYMOUS;
  mapping.vma.offset = offset * kTwoMb;
  mapping.vma.start = RemotePtr(kTwoMb * 100);
  mapping.vma.end = RemotePtr(kTwoMb * (100 + pages));
  return mapping;
}

Mapping without_reservation(Mapping mapping, std::uint64_t present) {
  mapping.vma.flags |= static_cast<std::uint64_t>(VmFlag::kNoReserve);
  mapping.vma.private_huge_kb = present * 2048;
  return mapping;
}

Mapping of_object(Mapping mapping, std::uint64_t id) {
  mapping.shared_id = id;
  return mapping;
}

TreeSurvey tree_of(std::vector<std::vector<Mapping>> members) {
  TreeSurvey tree;
  for (auto& mappings : members) {
    tree.members.emplace_back();
    tree.members.back().mappings = std::move(mappings);
  }
  return tree;
}

TEST(WantedMemory, OfSmallPagesIsNone) {
  EXPECT_TRUE(
      find_wanted_memory(tree_of({{Mapping{{}, VmaKind::ANONYMOUS, std::nullopt, 0}}})).empty());
}

TEST(WantedMemory, OfEachProcessIsAllThatItReserves) {
  const Mapping own = huge_mapping(VmaKind::ANONYMOUS, 0, 3);
  EXPECT_EQ(find_wanted_memory(tree_of({{own}, {own}})).huge_pages, (Pages{{21, 6}}));
}

TEST(WantedMemory, IsNoMoreThanIsThereWhereNothingIsReserved) {
  const Mapping own = without_reservation(huge_mapping(VmaKind::ANONYMOUS, 0, 300), 2);
  EXPECT_EQ(find_wanted_memory(tree_of({{own}})).huge_pages, (Pages{{21, 2}}));
  const Mapping none = without_reservation(huge_mapping(VmaKind::ANONYMOUS, 0, 300), 0);
  EXPECT_TRUE(find_wanted_memory(tree_of({{none}})).empty());
}

TEST(WantedMemory, ThatSeveralHaveMappedCountsOnce) {
  const Mapping first = of_object(huge_mapping(VmaKind::SHARED_ANONYMOUS, 0, 4), 1);
  const Mapping second = of_object(huge_mapping(VmaKind::SHARED_ANONYMOUS, 2, 4), 1);
  const Mapping other = of_object(huge_mapping(VmaKind::SHARED_ANONYMOUS, 0, 1), 2);
  EXPECT_EQ(find_wanted_memory(tree_of({{first, other}, {second}})).huge_pages, (Pages{{21, 7}}));
}

TEST(WantedMemory, HasASegmentOnceHoweverOftenItIsAttached) {
  Mapping mapping = of_object(huge_mapping(VmaKind::SHARED_ANONYMOUS, 0, 2), 1);
  mapping.segment = Segment{7, 9, 2 * kTwoMb, 0600, 0, 0};
  const WantedMemory wanted = find_wanted_memory(tree_of({{mapping}, {mapping}}));
  ASSERT_EQ(wanted.segments.size(), 1u);
  EXPECT_EQ(wanted.segments[0].id, 7);
  EXPECT_EQ(wanted.huge_pages, (Pages{{21, 2}}));
}

}  // namespace
}  // namespace telefork::capture
