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
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
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
  bool repeat = false;
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

// What follows is no interface.
namespace detail {

inline telefork_options plain(const Options& options) {
  telefork_options plain = TELEFORK_OPTIONS_INIT;
  plain.mode = static_cast<int>(options.mode);
  plain.fds = static_cast<int>(options.fds);
  plain.shared = static_cast<int>(options.shared);
  plain.standard_input = static_cast<int>(options.standard_input);
  plain.die_with_parent = options.die_with_parent ? 1 : 0;
  plain.repeat = options.repeat ? 1 : 0;
  return plain;
}

[[noreturn]] inline void throw_last_error() {
  const int error = errno;
  throw Error(static_cast<telefork_code>(telefork_error_code()), error, telefork_error());
}

// A C string ends at the first NUL.
inline std::string name_of(std::string_view node) {
  if (node.find('\0') != std::string_view::npos) {
    throw Error(TELEFORK_USAGE, EINVAL, "the node's name has a NUL in it");
  }
  return std::string(node);
}

// What f returned.
template <class R>
struct Result {
  std::optional<R> value;
  template <class F>
  void take_from(F& f) {
    value.emplace(f());
  }
  R give() { return std::move(*value); }
};
template <class R>
struct Result<R&> {
  R* value = nullptr;
  template <class F>
  void take_from(F& f) {
    value = std::addressof(f());
  }
  R& give() { return *value; }
};
template <>
struct Result<void> {
  template <class F>
  void take_from(F& f) {
    f();
  }
  void give() {}
};

}  // namespace detail

// Returns 0 in the child, on `node`, and the child's local pid in the parent. Throws Error in the
// parent only.
inline pid_t fork(std::string_view node, const Options& options = {}) {
  const telefork_options plain = detail::plain(options);
  const pid_t pid = telefork_fork_with(detail::name_of(node).c_str(), &plain);
  if (pid < 0) detail::throw_last_error();
  return pid;
}

// Runs f() on `node` and returns what it returns; what it throws is thrown here. Throws Error when
// it did not run there to its end, and then everything is as it was at the call. See
// telefork_run_on.
//
//     std::vector<Pixel> picture = telefork::run_on("node7", [&] { return render(scene); });
template <class F>
auto run_on(std::string_view node, F&& f, const Options& options = {}) -> std::invoke_result_t<F> {
  struct Call {
    std::remove_reference_t<F>* f;
    detail::Result<std::invoke_result_t<F>> result;
    std::exception_ptr thrown;
  } call{std::addressof(f), {}, nullptr};
  const telefork_options plain = detail::plain(options);
  const auto run = [](void* argument) noexcept {
    Call& here = *static_cast<Call*>(argument);
    try {
      here.result.take_from(*here.f);
    } catch (...) {
      here.thrown = std::current_exception();
    }
  };
  if (telefork_run_on_with(detail::name_of(node).c_str(), run, &call, &plain) != 0) {
    detail::throw_last_error();
  }
  if (call.thrown) std::rethrow_exception(call.thrown);
  return call.result.give();
}

// The calling process moves to `node`; returns there. Throws Error here when it does not go. See
// telefork_move_to.
inline void move_to(std::string_view node, const Options& options = {}) {
  const telefork_options plain = detail::plain(options);
  if (telefork_move_to_with(detail::name_of(node).c_str(), &plain) != 0) {
    detail::throw_last_error();
  }
}

}  // namespace api
}  // namespace telefork
