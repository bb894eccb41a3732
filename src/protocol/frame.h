// The framing of a control connection. Three kinds of bytes share it:
//
//      0          4         5           8
//     +----------+---------+-----------+---------------------+
//     | length   | channel | 0   0   0 | payload             |   all little-endian
//     +----------+---------+-----------+---------------------+
//
// Control frames are one message each; image and bulk frames are pieces of a byte stream, with
// borders that mean nothing. A frame is at most so long that an urgent one behind it waits for
// little, and that a hostile length takes no memory.
//
// FrameDecoder is pure (no I/O, no clock): read into what begin_receive() gives, tell how much it
// was, take out the frames.
//
//     auto room = decoder.begin_receive();
//     decoder.end_receive(*stream.try_read(room));
//     while (std::optional<Frame> frame = decoder.next()) ...
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace telefork::protocol {

enum class Channel : std::uint8_t {
  kControl = 0,  // one Message
  kImage = 1,    // of the records
  kBulk = 2,     // of the payloads, where the link has only one stream
};

inline constexpr std::size_t kFrameHeaderSize = 8;
inline constexpr std::size_t kMaxFrame = 1024 * 1024;  // of control and image
inline constexpr std::size_t kMaxBulkFrame = 64 * 1024;
std::size_t max_frame(Channel channel);

std::array<std::byte, kFrameHeaderSize> encode_frame_header(Channel channel, std::size_t length);

struct Frame {
  Channel channel;
  std::span<const std::byte> payload;  // valid until the next begin_receive()
};

class FrameDecoder {
 public:
  // Never empty. What next() gave before is no longer valid.
  std::span<std::byte> begin_receive();
  void end_receive(std::size_t count);
  // Empty: no whole frame is there. kCorrupt for an unknown channel, reserved bytes that are not
  // zero or a length over the cap; nothing can be decoded after that.
  std::optional<Frame> next();

  // Whether the end of the stream here would cut a frame.
  bool inside_frame() const { return begin_ != end_; }
  // A whole frame is there, or enough of one to be refused.
  bool has_frame() const;

 private:
  std::size_t buffered() const { return end_ - begin_; }
  struct Header {
    Channel channel;
    std::size_t length;
  };
  std::optional<Header> peek_header() const;

  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;  // of what was not given out
  std::size_t end_ = 0;    // of what was received
};

}  // namespace telefork::protocol
