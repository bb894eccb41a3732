#include "restore/kept_image.h"

#include <cstring>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/testing_error.h"

namespace telefork::restore {
namespace {

constexpr std::uint64_t kMost = 1 << 20;
constexpr RemotePtr kStart(0x10000);

std::vector<std::byte> pages_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (int value : values) bytes.insert(bytes.end(), kPageSize, static_cast<std::byte>(value));
  return bytes;
}

RemotePtr page(std::uint64_t index) { return kStart + index * kPageSize; }

std::vector<int> values_of(const KeptImage& image, std::uint64_t index, std::size_t count) {
  std::vector<std::byte> bytes(count * kPageSize);
  image.read(page(index), bytes);
  std::vector<int> values;
  for (std::size_t at = 0; at < bytes.size(); at += kPageSize) {
    values.push_back(std::to_integer<int>(bytes[at + kPageSize / 2]));
  }
  return values;
}

std::uint64_t memory_of(const UniqueFd& file) {
  struct stat status {};
  EXPECT_EQ(::fstat(file.get(), &status), 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

UniqueFd make_file(std::initializer_list<int> values, std::uint64_t most = kMost) {
  KeptImage image = KeptImage::make(most);
  image.put(kStart, pages_of(values));
  return image.close();
}

TEST(KeptImage, GivesBackWhatWasPut) {
  const KeptImage image = KeptImage::open(make_file({1, 2, 3}), kMost);
  ASSERT_EQ(image.pages().size(), 3U);
  EXPECT_EQ(values_of(image, 0, 3), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(values_of(image, 1, 1), (std::vector<int>{2}));
}

TEST(KeptImage, HashesUnderItsOwnSecret) {
  const KeptImage image = KeptImage::open(make_file({1}), kMost);
  EXPECT_EQ(image::SecretHash(image.secret()).of(pages_of({1})), image.pages()[0].hash);
  EXPECT_NE(image::SecretHash(image.secret()).of(pages_of({2})), image.pages()[0].hash);
  const KeptImage other = KeptImage::open(make_file({1}), kMost);
  EXPECT_NE(image.pages()[0].hash, other.pages()[0].hash);
}

TEST(KeptImage, TakesWhatHasChangedAndLeavesOutWhatIsNotPutAgain) {
  KeptImage image = KeptImage::open(make_file({1, 2, 3, 4}), kMost);
  image.put(page(0), pages_of({1, 7}));
  image.put(page(3), pages_of({4, 5, 6}));
  image = KeptImage::open(image.close(), kMost);
  ASSERT_EQ(image.pages().size(), 5U);
  EXPECT_EQ(values_of(image, 0, 2), (std::vector<int>{1, 7}));
  EXPECT_EQ(values_of(image, 3, 3), (std::vector<int>{4, 5, 6}));
  expect_corrupt([&] { values_of(image, 2, 1); }, "was not kept");
}

TEST(KeptImage, HasAgainWhatHasNotChanged) {
  KeptImage image = KeptImage::open(make_file({1, 2, 3, 4, 5}), kMost);
  image.put_again(page(1), 2);
  image.put(page(3), pages_of({7}));
  image.put_again(page(4), 9);
  image = KeptImage::open(image.close(), kMost);
  ASSERT_EQ(image.pages().size(), 4U);
  EXPECT_EQ(values_of(image, 1, 4), (std::vector<int>{2, 3, 7, 5}));
}

TEST(KeptImage, FreesTheMemoryOfWhatIsLeftOut) {
  UniqueFd file = make_file({1, 2, 3, 4, 5, 6, 7, 8});
  const std::uint64_t before = memory_of(file);
  KeptImage image = KeptImage::open(std::move(file), kMost);
  image.put(page(6), pages_of({7}));
  file = image.close();
  EXPECT_EQ(memory_of(file), before - 7 * kPageSize);
  // And gives it to what comes new.
  image = KeptImage::open(std::move(file), kMost);
  image.put(page(0), pages_of({11, 12}));
  image.put(page(6), pages_of({7}));
  file = image.close();
  EXPECT_EQ(memory_of(file), before - 5 * kPageSize);
  image = KeptImage::open(std::move(file), kMost);
  EXPECT_EQ(values_of(image, 0, 2), (std::vector<int>{11, 12}));
  EXPECT_EQ(values_of(image, 6, 1), (std::vector<int>{7}));
}

TEST(KeptImage, HoldsNoMoreThanItMay) {
  const KeptImage image = KeptImage::open(make_file({1, 2, 3}, 6 * kPageSize), kMost);
  EXPECT_EQ(image.pages().size(), 2U);
}

TEST(KeptImage, HasAnotherTokenEachTime) {
  KeptImage image = KeptImage::open(make_file({1, 2}), kMost);
  const KeptImage::Token first = image.token();
  image.put_again(page(0), 2);
  UniqueFd file = image.close();
  EXPECT_NE(image.token(), first);
  EXPECT_EQ(image.pages().size(), 2u);
  EXPECT_EQ(KeptImage::open(std::move(file), kMost).token(), image.token());
}

TEST(KeptImage, MayBeEmpty) { EXPECT_TRUE(KeptImage::open(make_file({}), kMost).pages().empty()); }

TEST(KeptImage, GivesNoPageThatIsNotWhatWasKept) {
  UniqueFd file = make_file({1, 2});
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 2 * kPageSize + 77), 1);
  const KeptImage image = KeptImage::open(std::move(file), kMost);
  EXPECT_EQ(values_of(image, 0, 1), (std::vector<int>{1}));
  expect_corrupt([&] { values_of(image, 1, 1); }, "is not what was kept");
}

TEST(KeptImage, IsNotOpenedWhereItIsDamaged) {
  for (off_t at : {off_t{0}, off_t{8}, off_t{16}}) {
    UniqueFd file = make_file({1, 2});
    ASSERT_EQ(::pwrite(file.get(), "\xff\xff", 2, at), 2);
    expect_corrupt([&] { KeptImage::open(std::move(file), kMost); }, "what was kept");
  }
  UniqueFd shorter = make_file({1, 2});
  ASSERT_EQ(::ftruncate(shorter.get(), 3 * kPageSize), 0);
  expect_corrupt([&] { KeptImage::open(std::move(shorter), kMost); }, "kept image");
}

}  // namespace
}  // namespace telefork::restore
