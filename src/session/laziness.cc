#include "session/laziness.h"

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::session {

Laziness::Choice Laziness::choose(Mode mode, std::uint64_t resident_kb, const std::string& node,
                                  const std::string& why_not) const {
  if (mode == Mode::kLazy) {
    if (why_not.empty()) return {true, {}};
    throw Error(Code::kRefused, fmt::format("mode lazy, {}: {}", node, why_not));
  }
  if (mode != Mode::kAutomatic) return {};
  if (process_kb == kNever) return {false, "it was not asked for"};
  if (!is_large(resident_kb)) return {false, "it is smaller than the settings say"};
  return {why_not.empty(), why_not};
}

Laziness::Choice Laziness::choose_live(const std::string& node, const std::string& why_not) {
  if (why_not.empty()) return {false, {}, true};
  throw Error(Code::kRefused, fmt::format("mode live, {}: {}", node, why_not));
}

}  // namespace telefork::session
