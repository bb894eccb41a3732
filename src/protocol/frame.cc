#include "protocol/frame.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::protocol {
namespace {

// Room for many small frames; grows to one frame of the largest size.
constexpr std::size_t kSmallBuffer = 64 * 1024;

}  // namespace

std::size_t max_frame(Channel channel) {
  return channel == Channel::kBulk ? kMaxBulkFrame : kMaxFrame;
}

std::array<std::byte, kFrameHeaderSize> encode_frame_header(Channel channel, std::size_t length) {
  TELEFORK_ASSERT(length <= max_frame(channel));
  std::array<std::byte, kFrameHeaderSize> bytes{};
  for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(length >> (8 * i));
  bytes[4] = static_cast<std::byte>(channel);
  return bytes;
}

std::optional<FrameDecoder::Header> FrameDecoder::peek_header() const {
  if (buffered() < kFrameHeaderSize) return std::nullopt;
  const std::byte* bytes = buffer_.data() + begin_;
  std::size_t length = 0;
  for (std::size_t i = 0; i < 4; ++i) length |= std::to_integer<std::size_t>(bytes[i]) << (8 * i);
  auto number = std::to_integer<unsigned>(bytes[4]);
  auto channel = static_cast<Channel>(number);
  bool zeros = std::all_of(bytes + 5, bytes + 8, [](std::byte b) { return b == std::byte{0}; });
  if (number > static_cast<unsigned>(Channel::kBulk) || !zeros) {
    throw Error(Code::kCorrupt, fmt::format("a frame of unknown kind {}", number));
  }
  if (length > max_frame(channel)) {
    throw Error(Code::kCorrupt, fmt::format("a frame of {} bytes, where {} are allowed", length,
                                            max_frame(channel)));
  }
  return Header{channel, length};
}

std::span<std::byte> FrameDecoder::begin_receive() {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, buffered());
    end_ -= begin_;
    begin_ = 0;
  }
  std::size_t wanted = kSmallBuffer;
  if (std::optional<Header> header = peek_header()) {
    wanted = std::max(wanted, kFrameHeaderSize + header->length);
  }
  // More than one frame of every size; after it, room for the header of the next is enough.
  wanted += kFrameHeaderSize;
  if (buffer_.size() < wanted) buffer_.resize(wanted);
  TELEFORK_ASSERT(end_ < buffer_.size());
  return std::span(buffer_).subspan(end_);
}

void FrameDecoder::end_receive(std::size_t count) {
  TELEFORK_ASSERT(count <= buffer_.size() - end_);
  end_ += count;
}

bool FrameDecoder::has_frame() const {
  try {
    std::optional<Header> header = peek_header();
    return header && buffered() >= kFrameHeaderSize + header->length;
  } catch (const Error&) {
    return true;
  }
}

std::optional<Frame> FrameDecoder::next() {
  std::optional<Header> header = peek_header();
  if (!header || buffered() < kFrameHeaderSize + header->length) return std::nullopt;
  std::span payload = std::span(buffer_).subspan(begin_ + kFrameHeaderSize, header->length);
  begin_ += kFrameHeaderSize + header->length;
  return Frame{header->channel, payload};
}

}  // namespace telefork::protocol
