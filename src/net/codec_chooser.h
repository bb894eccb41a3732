// Which codec brings the bytes of a stream over soonest. Pure: whoever sends tells what it
// measured.
//
//     CodecChooser chooser(Compression::kAutomatic);
//     Codec codec = chooser.next();                // for the next block
//     chooser.on_block(codec, raw, stored, took);  // it was encoded so
//     chooser.on_wire(bytes, took);                // between two times when there was no room
//
// Compression and the wire work side by side, since the kernel sends what was written before. A
// byte therefore costs 1/wire uncompressed, and else the larger of 1/(speed of the codec) and
// 1/(ratio * wire). The cheapest is taken, and of two that are almost alike the lighter one. A link
// that has never been full is faster than whoever sends: nothing is compressed for it.
// What a codec does to these bytes is known by trying it: at first, and again now and then, since
// memory is not alike everywhere.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "net/compression.h"

namespace telefork::net {

// On the wire.
enum class Codec : std::uint32_t { kNone = 0, kLz4 = 1, kZstd = 2 };

class CodecChooser {
 public:
  using Duration = std::chrono::nanoseconds;
  // As many blocks pass before a codec that is not in use is tried again.
  static constexpr std::uint64_t kTrialInterval = 64;

  explicit CodecChooser(Compression compression);

  Codec next();
  // Both sizes in bytes; `took` for nothing but encoding.
  void on_block(Codec codec, std::size_t raw, std::size_t stored, Duration took);
  void on_wire(std::uint64_t bytes, Duration took);

  // In bytes a second; nothing before it is known.
  std::optional<double> wire() const { return wire_; }

 private:
  struct Known {
    double speed = 0;  // raw bytes a second; 0: not tried yet
    double ratio = 1;  // raw to stored
    std::uint64_t tried_at = 0;
  };
  double cost(Codec codec) const;
  std::optional<Codec> due_for_trial() const;

  std::optional<Codec> fixed_;
  std::array<Known, 3> known_;
  std::optional<double> wire_;
  std::uint64_t blocks_ = 0;
};

}  // namespace telefork::net
