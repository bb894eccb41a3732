// A stream whose bytes are compressed on their way through another one; both ends are made so.
//
//     CompressedStream stream(std::move(tls), Compression::kAutomatic);
//
//     try_write: bytes --> blocks of 128 KiB at most --> the stream below
//     try_read:  bytes <-- a block, decoded whole    <-- the stream below
//
//      0       4           8              12
//     +-------+-----------+--------------+--------------------------------------+
//     | codec | raw bytes | stored bytes | the block: raw, of lz4 or of zstd    |
//     +-------+-----------+--------------+--------------------------------------+
//
// All numbers are little-endian. Each block says by which codec it went, so that the end that sends
// chooses anew for each (codec_chooser.h), and a block that does not get smaller goes as it is.
// Formats: the block of lz4 (lz4.h), the frame of zstd (RFC 8878).
//
// What try_write() says is written has been given to the stream below, block by block; an attempt
// whose block did not go out whole says that there was no room, and the same bytes have to come
// again (stream.h). An end in the middle of a block is kLost, what is no block kCorrupt. Holds
// about three blocks of memory, and what zstd needs for one of them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "net/codec_chooser.h"
#include "net/stream.h"

namespace telefork::net {

class CompressedStream final : public Stream {
 public:
  static constexpr std::size_t kMaxBlock = 128 * 1024;

  CompressedStream(std::unique_ptr<Stream> below, Compression compression);
  ~CompressedStream() override;

  using Stream::try_write;
  std::optional<std::size_t> try_read(Bytes bytes) override;
  std::optional<std::size_t> try_write(ConstBytes head, ConstBytes body) override;
  pollfd read_interest() const override { return below_->read_interest(); }
  pollfd write_interest() const override { return below_->write_interest(); }
  bool has_buffered() const override {
    return decoded_begin_ < decoded_.size() || below_->has_buffered();
  }
  void shutdown_write() override { below_->shutdown_write(); }
  const std::string& name() const override { return below_->name(); }

  // Bytes that did not have to go, of those that were written; negative: more went.
  std::int64_t saved() const { return saved_; }

 private:
  struct BlockHeader {
    std::uint32_t codec = 0;
    std::uint32_t raw_bytes = 0;
    std::uint32_t stored_bytes = 0;
  };
  static_assert(sizeof(BlockHeader) == 12);
  class Codecs;

  void begin_block(ConstBytes head, ConstBytes body);
  bool send_block(ConstBytes raw);
  void note_no_room();
  bool receive_header();
  std::optional<std::size_t> receive_block(Bytes bytes);
  void check_header() const;
  std::size_t decode(Bytes bytes);

  std::unique_ptr<Stream> below_;
  std::unique_ptr<Codecs> codecs_;

  // Output.
  CodecChooser chooser_;
  BlockHeader sending_;
  std::vector<std::byte> gathered_;  // of two pieces one
  std::vector<std::byte> coding_;
  std::size_t encoded_ = 0;  // so much of it is the block; 0: that is the bytes themselves
  std::size_t to_send_ = 0;  // of header and block together; 0: no block was begun
  std::size_t sent_ = 0;
  std::int64_t saved_ = 0;
  std::uint64_t sent_since_no_room_ = 0;
  std::optional<std::chrono::steady_clock::time_point> no_room_at_;

  // Input.
  BlockHeader receiving_;
  std::size_t header_received_ = 0;
  std::size_t block_received_ = 0;
  std::vector<std::byte> received_;
  std::vector<std::byte> decoded_;
  std::size_t decoded_begin_ = 0;
};

}  // namespace telefork::net
