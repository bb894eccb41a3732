// Descriptor numbers to put something aside at.
#pragma once

#include <set>
#include <utility>

namespace telefork::restore {

// The smallest numbers that no target has and nothing occupies.
class FreeNumbers {
 public:
  explicit FreeNumbers(std::set<int> taken) : taken_(std::move(taken)) {}
  int next() {
    while (taken_.count(candidate_) != 0) ++candidate_;
    return candidate_++;
  }

 private:
  std::set<int> taken_;
  int candidate_ = 0;
};

}  // namespace telefork::restore
