// Descriptors that lie at any numbers, and are to lie at others: which step in which order. Nothing
// is overwritten that is needed still, and one free number is all that it takes, and that only
// where they would have to change places in a ring.
//
//     given 3 4 5, wanted 4 5 3:   3 -> 6, 5 -> 3, 4 -> 5, 6 -> 4, each closed where it was
//
// In the end nothing but what is wanted is open, of what was given.
#pragma once

#include <cstddef>
#include <vector>

namespace telefork::restore {

struct WantedNumber {
  int number;
  std::size_t file;  // index of what was given
  bool close_on_exec;
};

struct NumberStep {
  enum class Kind { kCopy, kClose, kKeepOnExec };
  Kind kind;
  int from;
  int to;  // of a copy
  bool close_on_exec;
};

// `given` are close-on-exec and all different, as are the wanted numbers. Numbers end below
// `limit`; kResources when one more was needed.
std::vector<NumberStep> plan_numbers(std::vector<int> given,
                                     const std::vector<WantedNumber>& wanted, int limit);

}  // namespace telefork::restore
