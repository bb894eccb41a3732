// What becomes of the bytes of a stream before they go (compressed_stream.h).
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

namespace telefork::net {

enum class Compression {
  kAutomatic = 0,  // whichever is the fastest on this link, for these bytes: codec_chooser.h
  kNone = 1,
  kLz4 = 2,
  kZstd = 3,
};

// By number; also the words of the command line.
inline constexpr std::array<std::string_view, 4> kCompressionNames = {"auto", "none", "lz4",
                                                                      "zstd"};

inline std::string_view compression_name(Compression compression) {
  return kCompressionNames[static_cast<std::size_t>(compression)];
}

// Nothing: it is none of these words.
inline std::optional<Compression> find_compression(std::string_view word) {
  for (std::size_t i = 0; i < kCompressionNames.size(); ++i) {
    if (kCompressionNames[i] == word) return static_cast<Compression>(i);
  }
  return std::nullopt;
}

}  // namespace telefork::net
