#include "image/checked_message.h"

#include <cstring>
#include <random>

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "image/image.capnp.h"

namespace telefork::image {
namespace {

using ::testing::HasSubstr;

std::vector<std::uint64_t> words_of(::capnp::MessageBuilder& message) {
  const kj::Array<::capnp::word> flat = ::capnp::messageToFlatArray(message);
  std::vector<std::uint64_t> words(flat.size());
  std::memcpy(words.data(), flat.begin(), flat.asBytes().size());
  return words;
}

std::vector<std::uint64_t> thread_words() {
  ::capnp::MallocMessageBuilder message;
  auto thread = message.initRoot<schema::Thread>();
  thread.setComm("worker");
  thread.initRegisters(216);
  thread.initPending(2).init(1, 128);
  return words_of(message);
}

CheckedMessage check_thread(std::vector<std::uint64_t> words) {
  return {std::move(words), ::capnp::Schema::from<schema::Thread>()};
}

template <class F>
std::string corruption_of(F&& f) {
  try {
    f();
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt);
    return error.text();
  }
}

TEST(CheckedMessage, CanBeMovedAndRead) {
  CheckedMessage message = check_thread(thread_words());
  const CheckedMessage moved = std::move(message);
  EXPECT_EQ(moved.root<schema::Thread>().getComm(), "worker");
  EXPECT_EQ(moved.root<schema::Thread>().getPending()[1].size(), 128u);
}

TEST(CheckedMessage, CanBeReadAsOftenAsOneLikes) {
  const CheckedMessage message = check_thread(thread_words());
  std::size_t bytes = 0;
  for (int i = 0; i < 1000000; ++i) bytes += message.root<schema::Thread>().getRegisters().size();
  EXPECT_EQ(bytes, 216u * 1000000);
}

TEST(CheckedMessage, TakesMessagesOfManySegments) {
  ::capnp::MallocMessageBuilder message(8, ::capnp::AllocationStrategy::FIXED_SIZE);
  auto thread = message.initRoot<schema::Thread>();
  thread.setComm("worker");
  auto pending = thread.initPending(100);
  for (unsigned i = 0; i < pending.size(); ++i) pending.init(i, 128);
  ASSERT_GT(message.getSegmentsForOutput().size(), 10u);
  const CheckedMessage checked = check_thread(words_of(message));
  EXPECT_EQ(checked.root<schema::Thread>().getPending()[99].size(), 128u);
}

TEST(CheckedMessage, TakesAnEmptyMessageAsAllDefaults) {
  ::capnp::MallocMessageBuilder message;
  message.initRoot<schema::Command>();
  const CheckedMessage checked(words_of(message), ::capnp::Schema::from<schema::Thread>());
  EXPECT_EQ(checked.root<schema::Thread>().getPending().size(), 0u);
}

TEST(CheckedMessage, RefusesWordsBehindTheMessage) {
  std::vector<std::uint64_t> words = thread_words();
  words.push_back(0);
  EXPECT_THAT(corruption_of([&] { check_thread(words); }), HasSubstr("behind"));
}

TEST(CheckedMessage, RefusesAMessageCutAtAnyWord) {
  const std::vector<std::uint64_t> words = thread_words();
  for (std::size_t n = 1; n < words.size(); ++n) {
    EXPECT_NE(corruption_of([&] { check_thread({words.begin(), words.begin() + n}); }), "") << n;
  }
}

TEST(CheckedMessage, RefusesAnEnumerantThatItDoesNotKnow) {
  ::capnp::MallocMessageBuilder message;
  message.initRoot<schema::Vma>().setKind(static_cast<schema::Vma::Kind>(99));
  EXPECT_THAT(corruption_of(
                  [&] { CheckedMessage(words_of(message), ::capnp::Schema::from<schema::Vma>()); }),
              HasSubstr("kind has the unknown value 99"));
}

TEST(CheckedMessage, RefusesDataWhereTextShouldBe) {
  ::capnp::MallocMessageBuilder message;
  // FileIdentity has its text where FileRef has its path, and a number of words of its own.
  auto file = message.initRoot<::capnp::AnyPointer>().initAsAnyStruct(4, 4);
  file.getPointerSection()[0].initAs<::capnp::Data>(3).asBytes()[2] = 'x';
  EXPECT_THAT(corruption_of([&] {
                CheckedMessage(words_of(message), ::capnp::Schema::from<schema::FileRef>());
              }),
              HasSubstr("is no FileRef"));
}

// One large object that very many pointers share: a few megabytes would unfold to terabytes.
TEST(CheckedMessage, RefusesAMessageThatUnfoldsToMoreThanItIs) {
  constexpr std::uint32_t kPointers = 4096;
  constexpr std::uint32_t kShared = 4096;  // words of Data
  ::capnp::MallocMessageBuilder message(1 << 16);
  auto list = message.initRoot<schema::Command>().initArguments(kPointers);
  list.init(kPointers - 1, kShared * 8);
  std::vector<std::uint64_t> words = words_of(message);
  // All other pointers are made to lead to where the last one does.
  const std::size_t last = words.size() - kShared - 1;
  for (std::size_t i = 1; i < kPointers; ++i) words[last - i] = words[last] + (i << 2);
  EXPECT_THAT(
      corruption_of([&] { CheckedMessage(words, ::capnp::Schema::from<schema::Command>()); }),
      HasSubstr("limit"));
}

// What passes the check can be read without an exception: everything is visited once more, as
// `telefork show` and restore do it.
TEST(CheckedMessage, NeverThrowsLaterWhatItDidNotThrowAtOnce) {
  const std::vector<std::uint64_t> good = thread_words();
  const std::uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  int passed = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::uint64_t> words = good;
    words[random() % words.size()] ^= std::uint64_t{1} << (random() % 64);
    try {
      const CheckedMessage message = check_thread(words);
      ++passed;
      auto thread = message.root<schema::Thread>();
      std::size_t bytes = thread.getComm().size() + thread.getRegisters().size() +
                          thread.getXstate().size() + thread.getAffinity().size();
      for (auto pending : thread.getPending()) bytes += pending.size();
      EXPECT_LE(bytes, words.size() * 8);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kCorrupt);
    }
  }
  EXPECT_GT(passed, 0);
}

}  // namespace
}  // namespace telefork::image
