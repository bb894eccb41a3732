// Until when a call may wait. Explicit everywhere, so that no call waits for ever by default:
//
//     stream.read_exactly(bytes, Deadline::in(10s));
//     stream.write_all(bytes, Deadline::never());
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>

namespace telefork::net {

class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  static Deadline never() { return Deadline(std::nullopt); }
  static Deadline at(Clock::time_point time) { return Deadline(time); }
  static Deadline in(Clock::duration duration) { return Deadline(Clock::now() + duration); }
  // Already over: one look, no waiting.
  static Deadline now() { return Deadline(Clock::time_point::min()); }

  bool passed() const { return time_ && Clock::now() >= *time_; }
  // As poll(2) wants it, rounded up, so that a wait does not end just before the deadline.
  int poll_timeout() const {
    if (!time_) return -1;
    if (passed()) return 0;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(*time_ - Clock::now()).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, std::numeric_limits<int>::max()));
  }

 private:
  explicit Deadline(std::optional<Clock::time_point> time) : time_(time) {}
  std::optional<Clock::time_point> time_;
};

}  // namespace telefork::net
