#include "net/compressed_stream.h"

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <lz4.h>
#include <zstd.h>

#include "base/error.h"

namespace telefork::net {
namespace {

using Clock = std::chrono::steady_clock;

// The fastest of those that are compatible with all of its versions.
constexpr int kZstdLevel = 1;

}  // namespace

// What the codecs need from block to block.
class CompressedStream::Codecs {
 public:
  Codecs() : zstd_(nullptr, ZSTD_freeCCtx), unzstd_(nullptr, ZSTD_freeDCtx) {}

  // The size of what `out` begins with then; 0: it did not fit.
  std::size_t encode(Codec codec, ConstBytes raw, std::span<std::byte> out) {
    const auto* in = reinterpret_cast<const char*>(raw.data());
    if (codec == Codec::kLz4) {
      return static_cast<std::size_t>(
          std::max(LZ4_compress_default(in, reinterpret_cast<char*>(out.data()),
                                        static_cast<int>(raw.size()), static_cast<int>(out.size())),
                   0));
    }
    if (!zstd_) zstd_.reset(ZSTD_createCCtx());
    if (!zstd_) throw Error(Code::kResources, "no memory to compress in", ENOMEM);
    const std::size_t size =
        ZSTD_compressCCtx(zstd_.get(), out.data(), out.size(), raw.data(), raw.size(), kZstdLevel);
    return ZSTD_isError(size) != 0 ? 0 : size;
  }

  // Whether `raw` is exactly what was encoded.
  bool decode(Codec codec, ConstBytes stored, Bytes raw) {
    if (codec == Codec::kLz4) {
      return LZ4_decompress_safe(reinterpret_cast<const char*>(stored.data()),
                                 reinterpret_cast<char*>(raw.data()),
                                 static_cast<int>(stored.size()),
                                 static_cast<int>(raw.size())) == static_cast<int>(raw.size());
    }
    if (!unzstd_) unzstd_.reset(ZSTD_createDCtx());
    if (!unzstd_) throw Error(Code::kResources, "no memory to decompress in", ENOMEM);
    return ZSTD_decompressDCtx(unzstd_.get(), raw.data(), raw.size(), stored.data(),
                               stored.size()) == raw.size();
  }

 private:
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> zstd_;
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> unzstd_;
};

CompressedStream::CompressedStream(std::unique_ptr<Stream> below, Compression compression)
    : below_(std::move(below)), codecs_(std::make_unique<Codecs>()), chooser_(compression) {}

CompressedStream::~CompressedStream() = default;

void CompressedStream::begin_block(ConstBytes head, ConstBytes body) {
  const std::size_t size = std::min(head.size() + body.size(), kMaxBlock);
  ConstBytes raw = head.empty() ? body.first(size) : head.first(std::min(head.size(), size));
  if (!head.empty() && raw.size() < size) {
    gathered_.assign(head.begin(), head.end());
    gathered_.insert(gathered_.end(), body.begin(),
                     body.begin() + static_cast<std::ptrdiff_t>(size - head.size()));
    raw = gathered_;
  }
  const Codec codec = chooser_.next();
  encoded_ = 0;
  const Clock::time_point begun = Clock::now();
  if (codec != Codec::kNone) {
    if (coding_.empty()) coding_.resize(kMaxBlock);
    // One that does not get smaller has no room.
    encoded_ = codecs_->encode(codec, raw, std::span(coding_).first(raw.size() - 1));
  }
  const std::size_t stored = encoded_ > 0 ? encoded_ : raw.size();
  chooser_.on_block(codec, raw.size(), stored, Clock::now() - begun);
  sending_.codec = static_cast<std::uint32_t>(encoded_ > 0 ? codec : Codec::kNone);
  sending_.raw_bytes = static_cast<std::uint32_t>(raw.size());
  sending_.stored_bytes = static_cast<std::uint32_t>(stored);
  to_send_ = sizeof sending_ + stored;
  sent_ = 0;
}

// Whatever was written since the last time has gone since: the link's own speed.
void CompressedStream::note_no_room() {
  const Clock::time_point now = Clock::now();
  if (no_room_at_ && sent_since_no_room_ > 0) {
    chooser_.on_wire(sent_since_no_room_, now - *no_room_at_);
  }
  if (!no_room_at_ || sent_since_no_room_ > 0) no_room_at_ = now;
  sent_since_no_room_ = 0;
}

// `raw`: the bytes of a block that goes as it is.
bool CompressedStream::send_block(ConstBytes raw) {
  const ConstBytes header = std::as_bytes(std::span(&sending_, 1));
  const ConstBytes block = encoded_ > 0 ? ConstBytes(coding_).first(encoded_) : raw;
  while (sent_ < to_send_) {
    const std::size_t of_header = std::min(sent_, header.size());
    std::optional<std::size_t> count =
        below_->try_write(header.subspan(of_header), block.subspan(sent_ - of_header));
    if (!count) {
      note_no_room();
      return false;
    }
    sent_ += *count;
    sent_since_no_room_ += *count;
  }
  return true;
}

std::optional<std::size_t> CompressedStream::try_write(ConstBytes head, ConstBytes body) {
  if (head.empty() && body.empty()) return 0;
  if (to_send_ == 0) begin_block(head, body);
  const std::size_t size = sending_.raw_bytes;
  TELEFORK_ASSERT(head.size() + body.size() >= size);
  ConstBytes raw = head.empty() ? body.first(size) : head;
  if (!head.empty() && head.size() < size) {
    raw = gathered_;
  } else {
    raw = raw.first(size);
  }
  if (!send_block(raw)) return std::nullopt;
  saved_ += static_cast<std::int64_t>(size) - static_cast<std::int64_t>(to_send_);
  to_send_ = 0;
  return size;
}

void CompressedStream::check_header() const {
  const bool is_plain = receiving_.codec == static_cast<std::uint32_t>(Codec::kNone);
  const bool is_known = receiving_.codec <= static_cast<std::uint32_t>(Codec::kZstd);
  const bool sizes_fit = receiving_.raw_bytes > 0 && receiving_.raw_bytes <= kMaxBlock &&
                         receiving_.stored_bytes > 0 &&
                         (is_plain ? receiving_.stored_bytes == receiving_.raw_bytes
                                   : receiving_.stored_bytes < receiving_.raw_bytes);
  if (is_known && sizes_fit) return;
  throw Error(Code::kCorrupt,
              fmt::format("{}: what came is no compressed block (codec {}, {} of {} "
                          "bytes)",
                          name(), receiving_.codec, receiving_.stored_bytes, receiving_.raw_bytes));
}

// False: not all of it is there. An end where a block could begin leaves it as it is.
bool CompressedStream::receive_header() {
  const std::span<std::byte> header = std::as_writable_bytes(std::span(&receiving_, 1));
  while (header_received_ < header.size()) {
    std::optional<std::size_t> count = below_->try_read(header.subspan(header_received_));
    if (!count) return false;
    if (*count == 0) {
      if (header_received_ > 0) throw_closed();
      return true;
    }
    header_received_ += *count;
  }
  check_header();
  return true;
}

// Into `bytes` itself where it is large enough.
std::size_t CompressedStream::decode(Bytes bytes) {
  const std::size_t size = receiving_.raw_bytes;
  const bool fits = bytes.size() >= size;
  if (!fits) decoded_.resize(size);
  if (!codecs_->decode(static_cast<Codec>(receiving_.codec), received_,
                       fits ? bytes.first(size) : Bytes(decoded_))) {
    throw Error(Code::kCorrupt, name() + ": a compressed block is damaged");
  }
  header_received_ = 0;
  block_received_ = 0;
  if (fits) return size;
  std::copy_n(decoded_.begin(), bytes.size(), bytes.begin());
  decoded_begin_ = bytes.size();
  return bytes.size();
}

std::optional<std::size_t> CompressedStream::receive_block(Bytes bytes) {
  const std::size_t left = receiving_.stored_bytes - block_received_;
  if (receiving_.codec == static_cast<std::uint32_t>(Codec::kNone)) {
    std::optional<std::size_t> count = below_->try_read(bytes.first(std::min(left, bytes.size())));
    if (!count) return std::nullopt;
    if (*count == 0) throw_closed();
    block_received_ += *count;
    if (block_received_ == receiving_.stored_bytes) {
      header_received_ = 0;
      block_received_ = 0;
    }
    return count;
  }
  received_.resize(receiving_.stored_bytes);
  while (block_received_ < received_.size()) {
    std::optional<std::size_t> count =
        below_->try_read(std::span(received_).subspan(block_received_));
    if (!count) return std::nullopt;
    if (*count == 0) throw_closed();
    block_received_ += *count;
  }
  return decode(bytes);
}

std::optional<std::size_t> CompressedStream::try_read(Bytes bytes) {
  if (bytes.empty()) return 0;
  if (const std::size_t left = decoded_.size() - decoded_begin_; left > 0) {
    const std::size_t count = std::min(left, bytes.size());
    std::copy_n(decoded_.begin() + static_cast<std::ptrdiff_t>(decoded_begin_), count,
                bytes.begin());
    decoded_begin_ += count;
    return count;
  }
  if (!receive_header()) return std::nullopt;
  if (header_received_ == 0) return 0;
  return receive_block(bytes);
}

}  // namespace telefork::net
