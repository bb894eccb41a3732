#include "net/compressed_stream.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/testing_error.h"
#include "net/fd_stream.h"
#include "net/memory_stream.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

using Buffer = std::vector<std::byte>;

// Every other quarter of a block like a heap, the others without any order.
Buffer mixed(std::size_t size, bool orderly, bool random) {
  Buffer bytes(size);
  std::mt19937 generator(size);
  for (std::size_t i = 0; i < size; ++i) {
    const bool is_random = random && (!orderly || (i / (CompressedStream::kMaxBlock / 4)) % 2 == 1);
    bytes[i] = is_random ? static_cast<std::byte>(generator()) : static_cast<std::byte>(i / 97 % 7);
  }
  return bytes;
}

Buffer compressed(const Buffer& bytes, Compression how, std::size_t head = 0, Faults faults = {}) {
  auto memory = std::make_unique<MemoryStream>();
  MemoryStream& below = *memory;
  CompressedStream stream(std::make_unique<FaultyStream>(std::move(memory), faults), how);
  stream.write_all(std::span(bytes).first(head), std::span(bytes).subspan(head), Deadline::in(60s));
  return below.written();
}

Buffer restored(Buffer stored, std::size_t size, std::size_t piece, Faults faults = {}) {
  CompressedStream stream(
      std::make_unique<FaultyStream>(std::make_unique<MemoryStream>(std::move(stored)), faults),
      Compression::kAutomatic);
  Buffer bytes(size);
  for (std::size_t done = 0; done < size;) {
    const std::size_t count = std::min(piece, size - done);
    stream.read_exactly(std::span(bytes).subspan(done, count), Deadline::in(60s));
    done += count;
  }
  std::byte more{};
  EXPECT_EQ(stream.try_read({&more, 1}), 0);
  EXPECT_FALSE(stream.has_buffered());
  return bytes;
}

class EachCodec : public ::testing::TestWithParam<Compression> {};
INSTANTIATE_TEST_SUITE_P(, EachCodec,
                         ::testing::Values(Compression::kAutomatic, Compression::kNone,
                                           Compression::kLz4, Compression::kZstd),
                         [](const auto& one) { return std::string(compression_name(one.param)); });

TEST_P(EachCodec, CarriesBytesOfAnySizeInAnyPieces) {
  constexpr std::size_t kBlock = CompressedStream::kMaxBlock;
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{4096}, kBlock, kBlock + 1, 5 * kBlock}) {
    for (const auto& [orderly, random] : {std::pair{true, false}, {false, true}, {true, true}}) {
      const Buffer bytes = mixed(size, orderly, random);
      EXPECT_EQ(restored(compressed(bytes, GetParam()), size, size), bytes) << size;
      Faults in_pieces;
      in_pieces.longest_write = 1000;
      in_pieces.longest_read = 777;
      EXPECT_EQ(restored(compressed(bytes, GetParam(), 0, in_pieces), size, 5000, in_pieces), bytes)
          << size;
    }
  }
}

TEST_P(EachCodec, TwoPiecesAreAsOne) {
  const Buffer bytes = mixed(CompressedStream::kMaxBlock + 5000, true, true);
  for (const std::size_t head : {std::size_t{1}, std::size_t{4999}, CompressedStream::kMaxBlock,
                                 CompressedStream::kMaxBlock + 1}) {
    EXPECT_EQ(restored(compressed(bytes, GetParam(), head), bytes.size(), bytes.size()), bytes);
  }
}

TEST_P(EachCodec, GoesOnWhereThereWasNoRoom) {
  auto [one, other] = make_stream_pair();
  const Buffer bytes = mixed(8 * 1024 * 1024, true, true);
  std::thread sender([&, end = std::move(one)]() mutable {
    CompressedStream stream(std::move(end), GetParam());
    stream.write_all(bytes, Deadline::in(60s));
    stream.shutdown_write();
  });
  CompressedStream stream(std::move(other), GetParam());
  Buffer received(bytes.size());
  stream.read_exactly(received, Deadline::in(60s));
  std::byte more{};
  EXPECT_EQ(stream.read_some({&more, 1}, Deadline::in(60s)), 0U);
  sender.join();
  EXPECT_EQ(received, bytes);
}

TEST(CompressedStream, WhatHasOrderGetsSmallerAndTheRestHardlyLarger) {
  const Buffer heap = mixed(1024 * 1024, true, false);
  const Buffer noise = mixed(1024 * 1024, false, true);
  for (const Compression how : {Compression::kLz4, Compression::kZstd}) {
    EXPECT_LT(compressed(heap, how).size(), heap.size() / 10) << compression_name(how);
    EXPECT_EQ(compressed(noise, how).size(), noise.size() + 8 * 12) << compression_name(how);
  }
}

TEST(CompressedStream, TellsWhatIsLeftOfABlock) {
  const Buffer bytes = mixed(1000, true, false);
  CompressedStream stream(std::make_unique<MemoryStream>(compressed(bytes, Compression::kLz4)),
                          Compression::kLz4);
  Buffer part(10);
  EXPECT_EQ(stream.try_read(part), 10);
  EXPECT_TRUE(stream.has_buffered());
}

TEST(CompressedStream, AnEndWithinABlockIsALoss) {
  const Buffer stored = compressed(mixed(1000, true, false), Compression::kLz4);
  for (std::size_t size = 1; size < stored.size(); ++size) {
    CompressedStream stream(
        std::make_unique<MemoryStream>(
            Buffer(stored.begin(), stored.begin() + static_cast<std::ptrdiff_t>(size))),
        Compression::kLz4);
    Buffer bytes(1000);
    Error error = error_of([&] { stream.read_exactly(bytes, Deadline::in(10s)); });
    EXPECT_EQ(error.code(), Code::kLost) << size;
  }
}

// The last of a plain block are told by the stream that is read from it.
TEST(CompressedStream, WhatIsNoBlockIsCorrupt) {
  const Buffer stored = compressed(mixed(1000, true, false), Compression::kZstd);
  struct Change {
    std::size_t at;
    unsigned value;
    const char* told;
  };
  for (const Change& change :
       {Change{0, 3, "no compressed block"}, Change{0, 0, "no compressed block"},
        Change{3, 1, "no compressed block"}, Change{6, 2, "no compressed block"},
        Change{7, 1, "no compressed block"}, Change{11, 1, "no compressed block"},
        Change{0, 1, "damaged"}, Change{4, 1, "damaged"}, Change{14, 0xff, "damaged"}}) {
    Buffer changed = stored;
    ASSERT_NE(changed[change.at], static_cast<std::byte>(change.value));
    changed[change.at] = static_cast<std::byte>(change.value);
    CompressedStream stream(std::make_unique<MemoryStream>(changed), Compression::kZstd);
    Buffer bytes(1000);
    Error error = error_of([&] { stream.read_exactly(bytes, Deadline::in(10s)); });
    EXPECT_EQ(error.code(), Code::kCorrupt) << change.at;
    EXPECT_THAT(error.text(), HasSubstr(change.told)) << change.at;
  }
}

TEST(CompressedStream, NothingIsNoBlock) {
  EXPECT_TRUE(compressed({}, Compression::kZstd).empty());
  CompressedStream stream(std::make_unique<MemoryStream>(), Compression::kZstd);
  EXPECT_EQ(stream.try_read({}), 0);
}

}  // namespace
}  // namespace telefork::net
