#include "image/memory_stream.h"

#include <cstring>

#include "base/error.h"

namespace telefork::image {

void MemorySink::write(std::span<const std::byte> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void MemorySource::read(std::span<std::byte> bytes) {
  if (bytes.size() > rest_.size()) throw Error(Code::kCorrupt, "the bytes end early");
  if (!bytes.empty()) std::memcpy(bytes.data(), rest_.data(), bytes.size());
  rest_ = rest_.subspan(bytes.size());
}

}  // namespace telefork::image
