#include "protocol/frame.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::protocol {
namespace {

std::vector<std::byte> frame_of(Channel channel, const std::vector<std::byte>& payload) {
  auto header = encode_frame_header(channel, payload.size());
  std::vector<std::byte> bytes(header.size() + payload.size());
  std::copy(header.begin(), header.end(), bytes.begin());
  std::copy(payload.begin(), payload.end(), bytes.begin() + kFrameHeaderSize);
  return bytes;
}

std::vector<std::byte> filled(std::size_t size, int value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

struct Seen {
  Channel channel;
  std::vector<std::byte> payload;
  bool operator==(const Seen&) const = default;
};

// Gives the decoder the bytes in pieces of at most `step`.
std::vector<Seen> decode(FrameDecoder& decoder, std::span<const std::byte> bytes,
                         std::size_t step) {
  std::vector<Seen> seen;
  while (!bytes.empty()) {
    auto room = decoder.begin_receive();
    std::size_t count = std::min({room.size(), step, bytes.size()});
    std::copy_n(bytes.begin(), count, room.begin());
    decoder.end_receive(count);
    bytes = bytes.subspan(count);
    while (auto frame = decoder.next()) {
      seen.push_back({frame->channel, {frame->payload.begin(), frame->payload.end()}});
    }
  }
  return seen;
}

TEST(FrameDecoder, FindsTheFramesHoweverTheBytesAreCut) {
  std::vector<Seen> sent = {{Channel::kControl, filled(5, 1)},
                            {Channel::kImage, {}},
                            {Channel::kBulk, filled(kMaxBulkFrame, 2)},
                            {Channel::kImage, filled(kMaxFrame, 3)},
                            {Channel::kControl, filled(1, 4)}};
  std::vector<std::byte> bytes;
  for (const Seen& one : sent) {
    auto frame = frame_of(one.channel, one.payload);
    bytes.insert(bytes.end(), frame.begin(), frame.end());
  }
  for (std::size_t step : {std::size_t{1}, std::size_t{7}, std::size_t{65536}, bytes.size()}) {
    FrameDecoder decoder;
    EXPECT_EQ(decode(decoder, bytes, step), sent) << "in steps of " << step;
    EXPECT_FALSE(decoder.inside_frame());
  }
}

TEST(FrameDecoder, KnowsThatAnEndWouldCutAFrame) {
  auto bytes = frame_of(Channel::kImage, filled(10, 1));
  for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
    FrameDecoder decoder;
    EXPECT_TRUE(decode(decoder, std::span(bytes).first(cut), 1000).empty());
    EXPECT_TRUE(decoder.inside_frame());
    EXPECT_FALSE(decoder.has_frame());
  }
}

void expect_corrupt(const std::array<std::byte, kFrameHeaderSize>& header) {
  FrameDecoder decoder;
  std::vector<std::byte> bytes(header.begin(), header.end());
  try {
    decode(decoder, bytes, 1000);
    ADD_FAILURE() << "the header was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt);
    EXPECT_TRUE(decoder.has_frame());
  }
}

TEST(FrameDecoder, RefusesALengthOverTheCapBeforeItTakesMemory) {
  auto header = encode_frame_header(Channel::kImage, kMaxFrame);
  header[0] = std::byte{1};
  expect_corrupt(header);
  header[3] = std::byte{0xff};
  expect_corrupt(header);
  header = encode_frame_header(Channel::kBulk, kMaxBulkFrame);
  header[0] = std::byte{1};
  expect_corrupt(header);
}

TEST(FrameDecoder, RefusesUnknownChannelsAndReservedBytes) {
  auto header = encode_frame_header(Channel::kControl, 1);
  header[4] = std::byte{3};
  expect_corrupt(header);
  for (std::size_t reserved = 5; reserved < kFrameHeaderSize; ++reserved) {
    header = encode_frame_header(Channel::kControl, 1);
    header[reserved] = std::byte{1};
    expect_corrupt(header);
  }
}

}  // namespace
}  // namespace telefork::protocol
