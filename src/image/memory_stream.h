// Byte streams over memory: for tests, fuzzing and small images.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "image/byte_stream.h"

namespace telefork::image {

class MemorySink : public ByteSink {
 public:
  void write(std::span<const std::byte> bytes) override;
  const std::vector<std::byte>& bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Reads what it was given, which must outlive it.
class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> bytes) : rest_(bytes) {}
  void read(std::span<std::byte> bytes) override;
  bool at_end() override { return rest_.empty(); }
  std::size_t left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace telefork::image
