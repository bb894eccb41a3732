// Where the bytes of an image go to and come from. net/ and the files of app/ implement these two,
// memory_stream.h has them over memory.
#pragma once

#include <cstddef>
#include <span>

namespace telefork::image {

class ByteSink {
 public:
  virtual ~ByteSink() = default;
  // All of it, or an Error.
  virtual void write(std::span<const std::byte> bytes) = 0;
};

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Exactly as many bytes as there is room for. Where they end early: an Error of code kCorrupt
  // (a file) or kLost (a link); the Reader adds which record was the last whole one.
  virtual void read(std::span<std::byte> bytes) = 0;
  // Whether nothing follows. Asked once, after the End record, and only of a source that the
  // payloads are in as well; a file says no when something was appended to the image.
  virtual bool at_end() { return true; }
};

}  // namespace telefork::image
