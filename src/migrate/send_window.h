// How many bytes may be under way to a receiver that confirms them: what the connection carries in
// one round trip, so that it never stands still, and a few milliseconds more. Whatever is urgent
// waits behind no more than those.
//
//     window.sent(bytes, now);
//     window.confirmed(bytes, now);
//     if (window.has_room()) ...
//
// The round trip is the shortest that was seen, the rate that of the last milliseconds. As long as
// the window is what limits the rate it grows by that share by which it is longer than the round
// trip. Pure.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>

namespace telefork::migrate {

class SendWindow {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::uint64_t kLeast = 512 * 1024;
  static constexpr std::uint64_t kMost = 64 * 1024 * 1024;

  bool has_room() const { return sent_ - confirmed_ < size_; }
  std::uint64_t size() const { return size_; }
  std::uint64_t under_way() const { return sent_ - confirmed_; }

  void sent(std::uint64_t bytes, Clock::time_point now) {
    if (under_way() == 0) start_measuring(now);
    sent_ += bytes;
    pieces_.push_back({sent_, now});
  }
  void confirmed(std::uint64_t bytes, Clock::time_point now) {
    confirmed_ = std::min(sent_, confirmed_ + bytes);
    while (!pieces_.empty() && pieces_.front().end <= confirmed_) {
      round_trip_ = std::min<Clock::duration>(round_trip_, now - pieces_.front().when);
      pieces_.pop_front();
    }
    const Clock::duration measured = now - measured_since_;
    if (measured < kMeasure) return;
    const double rate = static_cast<double>(confirmed_ - measured_from_) /
                        std::chrono::duration<double>(measured).count();
    const double wanted = rate * std::chrono::duration<double>(
                                     std::min<Clock::duration>(round_trip_, kLongest) + kQueue)
                                     .count();
    size_ = std::clamp(static_cast<std::uint64_t>(wanted), kLeast, kMost);
    start_measuring(now);
  }

 private:
  static constexpr std::chrono::milliseconds kMeasure{2};
  static constexpr std::chrono::milliseconds kQueue{4};
  static constexpr std::chrono::seconds kLongest{1};

  void start_measuring(Clock::time_point now) {
    measured_since_ = now;
    measured_from_ = confirmed_;
  }

  struct Piece {
    std::uint64_t end;  // sent_ behind it
    Clock::time_point when;
  };
  std::uint64_t sent_ = 0;
  std::uint64_t confirmed_ = 0;
  std::uint64_t size_ = 1024 * 1024;
  std::deque<Piece> pieces_;
  Clock::duration round_trip_ = kLongest;
  Clock::time_point measured_since_{};
  std::uint64_t measured_from_ = 0;
};

}  // namespace telefork::migrate
