// One frame header as bytes, and its checksum. Pure; see format.h for the picture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "image/format.h"

namespace telefork::image {

// The 32 bytes that stand in the image. Valid as long as the header is.
inline std::span<const std::byte> frame_bytes(const FrameHeader& header) {
  return std::as_bytes(std::span(&header, 1));
}

// XXH3-64 of all of the header before its checksum, and the metadata.
std::uint64_t frame_checksum(const FrameHeader& header, std::span<const std::byte> metadata);

// Everything that can be said of a frame before its metadata has come: magic, type, flags, lengths,
// its number. Throws kCorrupt.
void check_frame(const FrameHeader& header, std::uint64_t expected_number, bool payloads_inline);

}  // namespace telefork::image
