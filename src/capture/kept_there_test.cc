#include "capture/kept_there.h"

#include <gtest/gtest.h>

#include "base/testing_error.h"

namespace telefork::capture {
namespace {

constexpr RemotePtr kStart(0x10000);

std::vector<std::byte> page_of(int value) {
  return std::vector<std::byte>(kPageSize, static_cast<std::byte>(value));
}

std::vector<std::byte> hashes_of(const image::SecretHash::Secret& secret,
                                 std::initializer_list<int> values) {
  std::vector<std::byte> hashes;
  for (int value : values) {
    const auto hash = image::SecretHash(secret).of(page_of(value));
    hashes.insert(hashes.end(), hash.begin(), hash.end());
  }
  return hashes;
}

TEST(KeptThere, KnowsThePagesByPlaceAndContent) {
  const auto secret = image::SecretHash::make_secret();
  KeptThere there(secret, 100);
  EXPECT_TRUE(there.empty());
  const kernel::PageRun first[] = {{kStart, 2}, {kStart + 4 * kPageSize, 1}};
  there.add(first, hashes_of(secret, {1, 2, 3}));
  const kernel::PageRun second[] = {{kStart + 5 * kPageSize, 1}};
  there.add(second, hashes_of(secret, {4}));
  EXPECT_FALSE(there.empty());
  EXPECT_TRUE(there.has(kStart, page_of(1)));
  EXPECT_TRUE(there.has(kStart + kPageSize, page_of(2)));
  EXPECT_TRUE(there.has(kStart + 4 * kPageSize, page_of(3)));
  EXPECT_TRUE(there.has(kStart + 5 * kPageSize, page_of(4)));
  EXPECT_FALSE(there.has(kStart, page_of(2)));
  EXPECT_FALSE(there.has(kStart + 2 * kPageSize, page_of(2)));
  EXPECT_FALSE(there.has(kStart + 6 * kPageSize, page_of(4)));
  EXPECT_FALSE(there.has(RemotePtr(kPageSize), page_of(1)));
}

TEST(KeptThere, RemembersNoMoreThanItMay) {
  const auto secret = image::SecretHash::make_secret();
  KeptThere there(secret, 2);
  const kernel::PageRun runs[] = {{kStart, 1}, {kStart + 2 * kPageSize, 2}};
  there.add(runs, hashes_of(secret, {1, 2, 3}));
  const kernel::PageRun more[] = {{kStart + 4 * kPageSize, 1}};
  there.add(more, hashes_of(secret, {4}));
  EXPECT_TRUE(there.has(kStart, page_of(1)));
  EXPECT_TRUE(there.has(kStart + 2 * kPageSize, page_of(2)));
  EXPECT_FALSE(there.has(kStart + 3 * kPageSize, page_of(3)));
  EXPECT_FALSE(there.has(kStart + 4 * kPageSize, page_of(4)));
  expect_corrupt([&] { there.add(more, hashes_of(secret, {4})); }, "it tells of");
}

TEST(KeptThere, RefusesWhatCannotBe) {
  const auto secret = image::SecretHash::make_secret();
  const std::vector<kernel::PageRun> wrong[] = {
      {{kStart + 1, 1}},
      {{kStart, 0}},
      {{kStart, 2}},
      {{kStart, UINT64_MAX / 2}},
      {{kStart, 1}, {kStart, 1}},
      {},
  };
  for (const std::vector<kernel::PageRun>& runs : wrong) {
    KeptThere there(secret, 100);
    expect_corrupt([&] { there.add(runs, hashes_of(secret, {1})); }, "it tells of");
  }
}

}  // namespace
}  // namespace telefork::capture
