#include "migrate/send_window.h"

#include <gtest/gtest.h>

namespace telefork::migrate {
namespace {

using namespace std::chrono_literals;

// A link of `rate` bytes a millisecond, whose answers take `trip`; pieces of 64 KB. What the window
// has come to after `during`.
std::uint64_t settle(std::uint64_t rate, std::chrono::milliseconds trip,
                     std::chrono::milliseconds during) {
  constexpr std::uint64_t kPiece = 64 * 1024;
  SendWindow window;
  SendWindow::Clock::time_point now{};
  struct Confirmation {
    SendWindow::Clock::time_point when;
    std::uint64_t bytes;
  };
  std::deque<Confirmation> coming;
  SendWindow::Clock::time_point link_free = now;
  const auto end = now + during;
  for (; now < end; now += 50us) {
    while (!coming.empty() && coming.front().when <= now) {
      window.confirmed(coming.front().bytes, now);
      coming.pop_front();
    }
    while (window.has_room()) {
      link_free = std::max(link_free, now) + std::chrono::nanoseconds(kPiece * 1'000'000 / rate);
      window.sent(kPiece, now);
      coming.push_back({link_free + trip, kPiece});
    }
  }
  return window.size();
}

TEST(SendWindow, IsSmallOnASlowLink) {
  // 100 Mbit/s.
  EXPECT_EQ(settle(12'500, 1ms, 2000ms), SendWindow::kLeast);
}

TEST(SendWindow, HoldsAFewMillisecondsOfAFastLink) {
  // 2 GB/s: 5 ms are 10 MB.
  const std::uint64_t size = settle(2'000'000, 1ms, 2000ms);
  EXPECT_GT(size, 4u * 1024 * 1024);
  EXPECT_LT(size, 32u * 1024 * 1024);
}

TEST(SendWindow, FillsALongLink) {
  // 100 MB/s, 50 ms: less than 5 MB would leave it idle.
  EXPECT_GT(settle(100'000, 50ms, 10'000ms), 5'000'000u);
}

TEST(SendWindow, TakesNoMoreThanWasSent) {
  SendWindow window;
  window.sent(1000, {});
  window.confirmed(5000, SendWindow::Clock::time_point(1ms));
  EXPECT_EQ(window.under_way(), 0u);
}

}  // namespace
}  // namespace telefork::migrate
