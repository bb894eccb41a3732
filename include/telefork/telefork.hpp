// telefork: fork(), across machines. The C++ skin over telefork.h; header-only, C++17.
//
//     pid_t pid = telefork::fork("node7");       // throws telefork::Error; there is no child then
//     if (pid == 0) {                            // runs on node7
//       compute();
//       _exit(0);
//     }
//     waitpid(pid, &status, 0);
//
// The contract of a fork, threads and descriptors: see telefork.h.
#pragma once

#include <cerrno>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "telefork/telefork.h"

namespace telefork {

// The names live in an inline namespace so that their symbols are this interface's own.
inline namespace api {

// NOLINTBEGIN(readability-identifier-naming): the names are the published ones.

// How the memory travels; one asked for by name that cannot be had is refused.
enum class Mode : int {
  automatic = TELEFORK_MODE_AUTOMATIC,
  eager = TELEFORK_MODE_EAGER,
  lazy = TELEFORK_MODE_LAZY,
  live = TELEFORK_MODE_LIVE,
};

// A descriptor that cannot travel: the fork fails, or its number is a dead one in the child.
enum class Fds : int { refuse = TELEFORK_FDS_REFUSE, leave_home = TELEFORK_FDS_LEAVE_HOME };

// Memory shared with processes that stay: the fork fails, or the child has a copy.
enum class Shared : int { refuse = TELEFORK_SHARED_REFUSE, copy = TELEFORK_SHARED_COPY };

// The child's stdin: /dev/null, or carried from home.
enum class StandardInput : int { nothing = TELEFORK_STDIN_NOTHING, take = TELEFORK_STDIN_TAKE };

// NOLINTEND(readability-identifier-naming)

struct Options {
  Mode mode = Mode::automatic;
  Fds fds = Fds::refuse;
  Shared shared = Shared::refuse;
  StandardInput standard_input = StandardInput::nothing;
  bool die_with_parent = false;
};

// Why a call failed.
class Error : public std::exception {
 public:
  Error(telefork_code code, int error, std::string text)
      : code_(code), error_(error), text_(std::move(text)) {}

  // What the caller can do about it.
  telefork_code code() const noexcept { return code_; }
  // The errno.
  int error() const noexcept { return error_; }
  // Valid as long as the Error is.
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  telefork_code code_;
  int error_;
  std::string text_;
};

// Returns 0 in the child, on `node`, and the child's local pid in the parent. Throws Error in the
// parent only.
inline pid_t fork(std::string_view node, const Options& options = {}) {
  telefork_options plain = TELEFORK_OPTIONS_INIT;
  plain.mode = static_cast<int>(options.mode);
  plain.fds = static_cast<int>(options.fds);
  plain.shared = static_cast<int>(options.shared);
  plain.standard_input = static_cast<int>(options.standard_input);
  plain.die_with_parent = options.die_with_parent ? 1 : 0;
  const pid_t pid = telefork_fork_with(std::string(node).c_str(), &plain);
  if (pid < 0) {
    const int error = errno;
    throw Error(static_cast<telefork_code>(telefork_error_code()), error, telefork_error());
  }
  return pid;
}

}  // namespace api
}  // namespace telefork
