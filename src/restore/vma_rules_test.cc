#include "restore/vma_rules.h"

#include <capnp/message.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

namespace telefork::restore {
namespace {

using image::schema::Vma;

constexpr auto kHugeTlb = static_cast<std::uint64_t>(kernel::VmFlag::kHugeTlb);

int flags_of(Vma::Kind kind, std::uint64_t flags, std::uint8_t shift) {
  ::capnp::MallocMessageBuilder message;
  auto vma = message.initRoot<Vma>();
  vma.setKind(kind);
  vma.setFlags(flags);
  vma.setHugeShift(shift);
  return map_flags(vma.asReader());
}

TEST(VmaRules, MapPagesOfTheSizeThatTheyHad) {
  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
  constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB;
  EXPECT_EQ(flags_of(Vma::Kind::ANONYMOUS, kHugeTlb, 21), kPrivate | (21 << MAP_HUGE_SHIFT));
  EXPECT_EQ(flags_of(Vma::Kind::ANONYMOUS, kHugeTlb, 30), kPrivate | (30 << MAP_HUGE_SHIFT));
  EXPECT_EQ(flags_of(Vma::Kind::SHARED_ANONYMOUS, kHugeTlb, 30), kShared | (30 << MAP_HUGE_SHIFT));
}

TEST(VmaRules, TakeHugePagesOfAnOlderImageForTwoMegabytes) {
  EXPECT_EQ(flags_of(Vma::Kind::ANONYMOUS, kHugeTlb, 0),
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT));
}

TEST(VmaRules, LeaveItToAFileWhatItsPagesAre) {
  EXPECT_EQ(flags_of(Vma::Kind::SHARED_FILE, kHugeTlb, 21), MAP_SHARED);
  EXPECT_EQ(flags_of(Vma::Kind::PRIVATE_FILE, kHugeTlb, 21), MAP_PRIVATE);
}

TEST(VmaRules, NameTheSettingThatHelps) {
  EXPECT_EQ(huge_pages_name(21), "huge pages (vm.nr_hugepages)");
  EXPECT_EQ(huge_pages_name(30),
            "huge pages of 1048576 kB (/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages)");
}

}  // namespace
}  // namespace telefork::restore
