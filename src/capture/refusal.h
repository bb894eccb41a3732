// Why something cannot move. Refusals are collected, so that all of them are told at once, before
// anything is frozen.
#pragma once

#include <string>
#include <vector>

namespace telefork::capture {

struct Refusal {
  std::string what;    // "fd 36 -> /dev/gdrdrv (char 506:0)"
  std::string why;     // "device state cannot move"
  std::string remedy;  // "close it"; may be empty

  // "fd 36 -> /dev/gdrdrv (char 506:0): device state cannot move; close it"
  std::string text() const;
  auto operator<=>(const Refusal&) const = default;
};

using Refusals = std::vector<Refusal>;

// A line each. Throws Error kRefused with all of them, if there are any.
void throw_refusals(const Refusals& refusals);

}  // namespace telefork::capture
