// How the memory of a process comes to where it goes: all of it first, after it, or ahead of it.
//
//     Laziness::Choice choice = laziness.choose(mode, status.resident_kb, node, why_not);
//     choice.lazy            // it follows
//     choice.live            // it goes while the process runs here still
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

namespace telefork::session {

// As telefork_mode of the library (include/telefork/telefork.h) and --mode have it.
enum class Mode { kAutomatic = 0, kEager = 1, kLazy = 2, kLive = 3 };

// From which size on the memory of a process follows it, where its mode is automatic.
struct Laziness {
  static constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

  // Resident in the process. What is smaller has come before it could have begun without. Empty:
  // nobody has said.
  std::optional<std::uint64_t> process_kb;
  // Of a mapping; smaller ones come before the process runs, in any mode.
  std::uint64_t mapping_kb = 1024;

  struct Choice {
    bool lazy = false;
    std::string why_not = {};  // where nobody has asked for eager
    bool live = false;
    const char* name() const { return live ? "live" : lazy ? "lazy" : "eager"; }
  };
  // Of a process of this size that goes to `node`. `why_not`: why its memory cannot follow it;
  // empty: it can. Throws kRefused for what was asked for by name and cannot be had.
  Choice choose(Mode mode, std::uint64_t resident_kb, const std::string& node,
                const std::string& why_not) const;
  // Of one that was asked to go while it runs, likewise.
  static Choice choose_live(const std::string& node, const std::string& why_not);
  bool is_large(std::uint64_t resident_kb) const {
    return resident_kb >= process_kb.value_or(16 * 1024);
  }
};

}  // namespace telefork::session
