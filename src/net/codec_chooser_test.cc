#include "net/codec_chooser.h"

#include <chrono>
#include <cstddef>
#include <set>

#include <gtest/gtest.h>

namespace telefork::net {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kChosenFor = 128 * 1024;

// What a codec does to the bytes, and how long it takes for a block.
struct Work {
  std::size_t stored;
  CodecChooser::Duration took;
};

// Heaps of processes: 3.1 and 0.9 GB/s, 5 and 0.58 GB/s.
constexpr Work kLz4Work{kChosenFor * 10 / 31, 145us};
constexpr Work kZstdWork{kChosenFor / 5, 226us};

void encode(CodecChooser& chooser, Codec codec, const Work& lz4, const Work& zstd) {
  const Work& work = codec == Codec::kLz4 ? lz4 : zstd;
  if (codec == Codec::kNone) {
    chooser.on_block(codec, kChosenFor, kChosenFor, 0ns);
  } else {
    chooser.on_block(codec, kChosenFor, work.stored, work.took);
  }
}

// The one that is taken after the trials, on a link of so many bytes a second.
Codec settle(double wire, const Work& lz4 = kLz4Work, const Work& zstd = kZstdWork) {
  CodecChooser chooser(Compression::kAutomatic);
  EXPECT_EQ(chooser.next(), Codec::kNone);
  chooser.on_wire(static_cast<std::uint64_t>(wire), 1s);
  for (int i = 0; i < 3; ++i) encode(chooser, chooser.next(), lz4, zstd);
  return chooser.next();
}

TEST(CodecChooser, TakesTheCheapestOfALink) {
  EXPECT_EQ(settle(12e6), Codec::kZstd);   // 100 Mbit/s
  EXPECT_EQ(settle(117e6), Codec::kZstd);  // 1 Gbit/s
  EXPECT_EQ(settle(290e6), Codec::kLz4);   // 2.5 Gbit/s: lz4's 0.9 GB/s is what goes over
  EXPECT_EQ(settle(3e9), Codec::kNone);
}

TEST(CodecChooser, WhatGetsNoSmallerIsNotCompressed) {
  EXPECT_EQ(settle(117e6, {kChosenFor, 20us}, {kChosenFor, 100us}), Codec::kNone);
}

TEST(CodecChooser, OneThatIsHardlyBetterIsNotTaken) {
  EXPECT_EQ(settle(117e6, {kChosenFor * 97 / 100, 20us}, {kChosenFor * 96 / 100, 100us}),
            Codec::kNone);
}

TEST(CodecChooser, ALinkThatWasNeverFullIsNotCompressedFor) {
  CodecChooser chooser(Compression::kAutomatic);
  for (std::uint64_t i = 0; i < 3 * CodecChooser::kTrialInterval; ++i) {
    EXPECT_EQ(chooser.next(), Codec::kNone);
    chooser.on_block(Codec::kNone, kChosenFor, kChosenFor, 0ns);
  }
}

TEST(CodecChooser, TriesTheOthersNowAndThen) {
  CodecChooser chooser(Compression::kAutomatic);
  chooser.on_wire(117'000'000, 1s);
  std::uint64_t of_others = 0;
  std::set<Codec> seen;
  for (std::uint64_t i = 0; i < 4 * CodecChooser::kTrialInterval; ++i) {
    const Codec codec = chooser.next();
    seen.insert(codec);
    if (codec != Codec::kZstd) ++of_others;
    encode(chooser, codec, kLz4Work, kZstdWork);
  }
  EXPECT_EQ(of_others, 4U);
  EXPECT_EQ(seen, (std::set{Codec::kLz4, Codec::kZstd}));
}

TEST(CodecChooser, FollowsALinkAndTheBytesWhenTheyChange) {
  CodecChooser chooser(Compression::kAutomatic);
  chooser.on_wire(117'000'000, 1s);
  auto run = [&](const Work& lz4, const Work& zstd) {
    for (std::uint64_t i = 0; i < 10 * CodecChooser::kTrialInterval; ++i) {
      encode(chooser, chooser.next(), lz4, zstd);
    }
    Codec codec = chooser.next();
    while (codec == Codec::kLz4) {  // a trial
      encode(chooser, codec, lz4, zstd);
      codec = chooser.next();
    }
    return codec;
  };
  EXPECT_EQ(run(kLz4Work, kZstdWork), Codec::kZstd);
  EXPECT_EQ(run({kChosenFor, 20us}, {kChosenFor, 100us}), Codec::kNone);
  for (int i = 0; i < 40; ++i) chooser.on_wire(5'000'000'000, 1s);
  EXPECT_NEAR(*chooser.wire(), 5e9, 1e8);
  EXPECT_EQ(run(kLz4Work, kZstdWork), Codec::kNone);
}

TEST(CodecChooser, OneThatWasNamedIsTakenAlways) {
  for (const auto& [compression, codec] :
       {std::pair{Compression::kNone, Codec::kNone}, std::pair{Compression::kLz4, Codec::kLz4},
        std::pair{Compression::kZstd, Codec::kZstd}}) {
    CodecChooser chooser(compression);
    EXPECT_EQ(chooser.next(), codec);
    chooser.on_wire(5'000'000'000, 1s);
    chooser.on_block(codec, kChosenFor, kChosenFor, 1s);
    EXPECT_EQ(chooser.next(), codec);
  }
}

TEST(CodecChooser, AClockThatStandsStillIsNoDivisionByZero) {
  CodecChooser chooser(Compression::kAutomatic);
  chooser.on_wire(1000, 0ns);
  EXPECT_GT(*chooser.wire(), 0);
  for (const Codec codec : {Codec::kLz4, Codec::kZstd}) chooser.on_block(codec, kChosenFor, 0, 0ns);
  EXPECT_NE(chooser.next(), Codec::kNone);  // what takes no time and leaves nothing is taken
}

}  // namespace
}  // namespace telefork::net
