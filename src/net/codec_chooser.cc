#include "net/codec_chooser.h"

#include <algorithm>
#include <utility>

namespace telefork::net {
namespace {

// On a faster link they cannot pay: no core does as much (docs/benchmarks.md).
constexpr double kFastestForLz4 = 2e9;
constexpr double kFastestForZstd = 1e9;

// A heavier one has to be better by so much.
constexpr double kWorth = 1.05;

// What is new counts so much: pages differ from block to block, a link less so.
constexpr double kWeightOfBlock = 0.25;
constexpr double kWeightOfWire = 0.25;

double seconds(CodecChooser::Duration took) {
  // A clock may not have moved.
  return std::max(std::chrono::duration<double>(took).count(), 1e-9);
}

double blend(double known, double seen, double weight) { return known + weight * (seen - known); }

std::size_t index_of(Codec codec) { return static_cast<std::size_t>(codec); }

}  // namespace

CodecChooser::CodecChooser(Compression compression) {
  switch (compression) {
    case Compression::kAutomatic:
      break;
    case Compression::kNone:
      fixed_ = Codec::kNone;
      break;
    case Compression::kLz4:
      fixed_ = Codec::kLz4;
      break;
    case Compression::kZstd:
      fixed_ = Codec::kZstd;
      break;
  }
}

// Of a raw byte, in seconds.
double CodecChooser::cost(Codec codec) const {
  if (codec == Codec::kNone) return 1 / *wire_;
  const Known& known = known_[index_of(codec)];
  return std::max(1 / known.speed, 1 / (known.ratio * *wire_));
}

std::optional<Codec> CodecChooser::due_for_trial() const {
  for (const auto& [codec, fastest] :
       {std::pair{Codec::kLz4, kFastestForLz4}, std::pair{Codec::kZstd, kFastestForZstd}}) {
    const Known& known = known_[index_of(codec)];
    const bool is_old = known.speed == 0 || blocks_ - known.tried_at >= kTrialInterval;
    if (*wire_ < fastest && is_old) return codec;
  }
  return std::nullopt;
}

Codec CodecChooser::next() {
  if (fixed_) return *fixed_;
  if (!wire_) return Codec::kNone;
  if (std::optional<Codec> trial = due_for_trial()) return *trial;
  Codec best = Codec::kNone;
  for (const Codec codec : {Codec::kLz4, Codec::kZstd}) {
    if (known_[index_of(codec)].speed != 0 && cost(codec) * kWorth < cost(best)) best = codec;
  }
  return best;
}

void CodecChooser::on_block(Codec codec, std::size_t raw, std::size_t stored, Duration took) {
  ++blocks_;
  if (codec == Codec::kNone || raw == 0) return;
  Known& known = known_[index_of(codec)];
  const double speed = static_cast<double>(raw) / seconds(took);
  const double ratio =
      static_cast<double>(raw) / static_cast<double>(std::max<std::size_t>(stored, 1));
  const bool is_first = known.speed == 0;
  known.speed = is_first ? speed : blend(known.speed, speed, kWeightOfBlock);
  known.ratio = is_first ? ratio : blend(known.ratio, ratio, kWeightOfBlock);
  known.tried_at = blocks_;
}

void CodecChooser::on_wire(std::uint64_t bytes, Duration took) {
  const double seen = static_cast<double>(bytes) / seconds(took);
  wire_ = wire_ ? blend(*wire_, seen, kWeightOfWire) : seen;
}

}  // namespace telefork::net
