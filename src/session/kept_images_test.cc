#include "session/kept_images.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace telefork::session {
namespace {

constexpr std::uint64_t kPiece = 64 * 1024;

KeepLimits limits(std::uint64_t memory_kb, std::uint64_t images) {
  KeepLimits limits;
  limits.memory_kb = memory_kb;
  limits.images = images;
  return limits;
}

KeptImages::Owner owner(uid_t uid, unsigned char name) {
  return {uid, std::nullopt, std::vector<std::byte>(16, std::byte{name})};
}

UniqueFd make_file(char content, std::uint64_t size = kPiece) {
  UniqueFd file(::memfd_create("kept", MFD_CLOEXEC));
  const std::string bytes(size, content);
  EXPECT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(size));
  return file;
}

// Of its content; 0: there is none.
char first_byte_of(const UniqueFd& file) {
  char byte = 0;
  if (file && ::pread(file.get(), &byte, 1, 0) != 1) ADD_FAILURE() << "it is empty";
  return byte;
}

TEST(KeptImages, GivesAnImageToItsOwnerAlone) {
  KeptImages images(limits(1024, 8));
  images.put(owner(1000, 1), make_file('a'));
  KeptImages::Owner by_key = owner(1000, 1);
  by_key.key.emplace();
  EXPECT_FALSE(images.take(owner(1001, 1)));
  EXPECT_FALSE(images.take(owner(1000, 2)));
  EXPECT_FALSE(images.take(by_key));
  EXPECT_EQ(first_byte_of(images.take(owner(1000, 1))), 'a');
  EXPECT_FALSE(images.take(owner(1000, 1)));
}

TEST(KeptImages, HoldsOneOfEachName) {
  KeptImages images(limits(1024, 8));
  images.put(owner(1000, 1), make_file('a'));
  images.put(owner(1000, 1), make_file('b'));
  EXPECT_EQ(first_byte_of(images.take(owner(1000, 1))), 'b');
  EXPECT_FALSE(images.take(owner(1000, 1)));
}

TEST(KeptImages, DropsTheOldestOfTooMany) {
  KeptImages images(limits(1024, 2));
  for (unsigned char name : {1, 2, 3}) images.put(owner(1000, name), make_file('a'));
  EXPECT_FALSE(images.take(owner(1000, 1)));
  EXPECT_TRUE(images.take(owner(1000, 2)));
  EXPECT_TRUE(images.take(owner(1000, 3)));
}

TEST(KeptImages, DropsTheOldestWhereTheyTakeTooMuchMemory) {
  KeptImages images(limits(2 * kPiece / 1024, 8));
  for (unsigned char name : {1, 2, 3}) images.put(owner(1000, name), make_file('a'));
  EXPECT_FALSE(images.take(owner(1000, 1)));
  EXPECT_TRUE(images.take(owner(1000, 2)));
  images.put(owner(1000, 4), make_file('a', 3 * kPiece));
  EXPECT_FALSE(images.take(owner(1000, 4)));
}

TEST(KeptImages, DropsWhatIsNotUsed) {
  KeepLimits at_once = limits(1024, 8);
  at_once.seconds = 0;
  KeptImages images(at_once);
  images.put(owner(1000, 1), make_file('a'));
  EXPECT_FALSE(images.take(owner(1000, 1)));
}

TEST(KeptImages, LooksAfterThemWhileThereAreAny) {
  KeptImages images(limits(1024, 8));
  EXPECT_FALSE(images.next_turn());
  images.put(owner(1000, 1), make_file('a'));
  EXPECT_TRUE(images.next_turn());
}

TEST(KeptImages, KeepsNothingWhereItMayNot) {
  EXPECT_FALSE(KeptImages(limits(0, 8)).keeps());
  EXPECT_FALSE(KeptImages(limits(1024, 0)).keeps());
  EXPECT_TRUE(KeptImages(KeepLimits()).keeps());
}

}  // namespace
}  // namespace telefork::session
