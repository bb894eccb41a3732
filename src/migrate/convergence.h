// When rounds of pages are to end, and the process is to stop for what is left.
//
//     Convergence convergence;
//     do { send a round } while (convergence.goes_on(pages, time));
//
// A round takes as long as its pages take to get there, and what is written meanwhile is the next
// one. They get shorter as long as the process writes slower than the connection carries; when they
// do not any more, or when what is left costs less than the stop does anyway, more rounds are for
// nothing. Pure.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/remote_ptr.h"

namespace telefork::migrate {

class Convergence {
 public:
  using Seconds = std::chrono::duration<double>;

  static constexpr unsigned kMostRounds = 30;
  // So many are read and sent while the process is being described.
  static constexpr std::uint64_t kFewPages = 256;
  static constexpr double kGain = 0.9;  // to less than that of the round before
  static constexpr unsigned kMostInVain = 3;

  // After a round of so many pages, which took so long until they had come.
  bool goes_on(std::uint64_t pages, Seconds took) {
    ++rounds_;
    const double seconds = std::max(took.count(), 1e-6);
    link_rate_ = std::max(link_rate_, static_cast<double>(pages) / seconds);
    if (rounds_ > 1) dirty_rate_ = static_cast<double>(pages) / before_took_;
    const bool gains = rounds_ == 1 || static_cast<double>(pages) < kGain * before_;
    in_vain_ = gains ? 0 : in_vain_ + 1;
    before_ = static_cast<double>(pages);
    before_took_ = seconds;
    converged_ = rounds_ > 1 && pages <= kFewPages;
    return !converged_ && in_vain_ < kMostInVain && rounds_ < kMostRounds;
  }

  // Pages a second that the process writes, as the last round had them.
  double dirty_rate() const { return dirty_rate_; }
  // And that the connection has carried at best.
  double link_rate() const { return link_rate_; }
  unsigned rounds() const { return rounds_; }
  // What is left is little.
  bool converged() const { return converged_; }

 private:
  unsigned rounds_ = 0;
  unsigned in_vain_ = 0;  // that got no shorter, one after the other
  double before_ = 0;
  double before_took_ = 1;
  double dirty_rate_ = 0;
  double link_rate_ = 0;
  bool converged_ = false;
};

}  // namespace telefork::migrate
