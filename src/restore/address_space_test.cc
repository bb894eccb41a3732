#include "restore/address_space.h"

#include <cerrno>

#include <gtest/gtest.h>

#include "base/testing_error.h"

namespace telefork::restore {
namespace {

TEST(AddressSpace, GivesRangesThatTouchNothingTaken) {
  AddressSpace space;
  space.take(RemotePtr(0x10000000000), RemotePtr(0x10000800000));
  RemotePtr first = space.allocate(0x1000, RemotePtr(0));
  RemotePtr second = space.allocate(0x1000, RemotePtr(0));
  EXPECT_GE(first.value(), 0x10000800000 + AddressSpace::kGap);
  EXPECT_GE(second - first, 0x1000 + AddressSpace::kGap);
  EXPECT_FALSE(space.is_free(first, first + 1));
}

TEST(AddressSpace, KeepsTheOffsetInAHugePage) {
  AddressSpace space;
  RemotePtr at = space.allocate(64 << 20, RemotePtr(0x7f0000123000));
  EXPECT_EQ(at.value() % kHugePageSize, 0x123000u);
}

TEST(AddressSpace, AlignsForLargerPagesWhatIsToHoldThem) {
  constexpr std::uint64_t kGigabyte = std::uint64_t{1} << 30;
  AddressSpace space;
  space.take(RemotePtr(0x10000000000), RemotePtr(0x10000800000));
  const RemotePtr at = space.allocate(2 * kGigabyte, RemotePtr(), kGigabyte);
  EXPECT_EQ(at.value() % kGigabyte, 0u);
  EXPECT_FALSE(space.is_free(at, at + 2 * kGigabyte));
}

TEST(AddressSpace, MergesWhatOverlaps) {
  AddressSpace space;
  space.take(RemotePtr(0x1000), RemotePtr(0x3000));
  space.take(RemotePtr(0x2000), RemotePtr(0x5000));
  EXPECT_FALSE(space.is_free(RemotePtr(0x4000), RemotePtr(0x5000)));
  EXPECT_TRUE(space.is_free(RemotePtr(0x5000), RemotePtr(0x6000)));
}

TEST(AddressSpace, SaysThatThereIsNoRoom) {
  AddressSpace space;
  space.take(RemotePtr(0x1000), RemotePtr(std::uint64_t{1} << 47));
  Error error = error_of([&] { space.allocate(0x1000, RemotePtr(0)); });
  EXPECT_EQ(error.code(), Code::kResources);
  EXPECT_EQ(error.error(), ENOMEM);
  AddressSpace empty;
  EXPECT_EQ(error_of([&] { empty.allocate(~std::uint64_t{0}, RemotePtr(0)); }).error(), ENOMEM);
}

}  // namespace
}  // namespace telefork::restore
