// Doubles for tests, shipped with the library.
//
// MemoryStream reads bytes that it was given and keeps what is written; it never waits.
// FaultyStream stands before another stream and spoils it: cuts it after so many bytes, or delivers
// a few at a time. Neither knows a clock.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "net/stream.h"

namespace telefork::net {

class MemoryStream final : public Stream {
 public:
  explicit MemoryStream(std::vector<std::byte> input = {}) : input_(std::move(input)) {}

  using Stream::try_write;
  std::optional<std::size_t> try_read(Bytes bytes) override;
  std::optional<std::size_t> try_write(ConstBytes head, ConstBytes body) override;
  pollfd read_interest() const override { return {-1, POLLIN, 0}; }
  pollfd write_interest() const override { return {-1, POLLOUT, 0}; }
  bool has_buffered() const override { return position_ < input_.size(); }
  void shutdown_write() override {}
  const std::string& name() const override { return name_; }

  const std::vector<std::byte>& written() const { return written_; }
  std::size_t unread() const { return input_.size() - position_; }

 private:
  std::vector<std::byte> input_;
  std::size_t position_ = 0;
  std::vector<std::byte> written_;
  std::string name_ = "memory";
};

struct Faults {
  static constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t cut_read_after = kNoLimit;   // bytes; then the end is read
  std::uint64_t cut_write_after = kNoLimit;  // bytes; then the stream is shut and writing is kLost
  std::size_t longest_read = std::numeric_limits<std::size_t>::max();
  std::size_t longest_write = std::numeric_limits<std::size_t>::max();
};

class FaultyStream final : public Stream {
 public:
  FaultyStream(std::unique_ptr<Stream> stream, Faults faults)
      : stream_(std::move(stream)), faults_(faults) {}

  using Stream::try_write;
  std::optional<std::size_t> try_read(Bytes bytes) override;
  std::optional<std::size_t> try_write(ConstBytes head, ConstBytes body) override;
  pollfd read_interest() const override { return stream_->read_interest(); }
  pollfd write_interest() const override { return stream_->write_interest(); }
  bool has_buffered() const override { return stream_->has_buffered(); }
  void shutdown_write() override { stream_->shutdown_write(); }
  const std::string& name() const override { return stream_->name(); }

 private:
  std::unique_ptr<Stream> stream_;
  Faults faults_;
  std::uint64_t read_ = 0;
  std::uint64_t written_ = 0;
};

}  // namespace telefork::net
