// The one exception of the project.
//
// An Error is something that happens in the world: a file that is missing, a peer that died, a
// descriptor that cannot move. It carries a code to branch on (named by what the caller can do
// about it), the errno where there was one, and what was being done, outermost first:
//
//     restoring memory: mapping 16 MB at 0x7f00deadb000: Cannot allocate memory
//
// A bug is not an Error: use TELEFORK_ASSERT, which stays on in release builds.
//
// Text for people is made from an Error in src/app only.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace telefork {

// The values are part of the C API (enum telefork_code in include/telefork/telefork.h) and, up to
// kUnauthorised, the exit codes of the commands.
enum class Code : int {
  kFailed = 1,        // anything else; the message says what
  kUsage = 2,         // the call or command line is wrong
  kRefused = 3,       // the process, or a part of it, cannot move there; the message has the remedy
  kUnreachable = 4,   // the node does not answer: check its name and that telepad runs there
  kUnauthorised = 5,  // the node does not trust us, or we do not trust it
  kLost = 6,          // the connection or the peer was lost on the way
  kCorrupt = 7,       // bytes from outside are damaged or not ours
  kResources = 8,     // memory, disk, pids or descriptors ran out, here or there
  kUnsupported = 9,   // this kernel or machine lacks what is needed
  kGone = 10,         // the process that we work on has ended
};

// Never fails; a number that is no Code is "failed".
std::string_view code_name(Code code);

class Error : public std::exception {
 public:
  // `doing` is what was being done, without a final full stop; `error` an errno, or 0.
  Error(Code code, std::string doing, int error = 0);

  Code code() const { return code_; }
  // The errno, or 0 where the failure is not the kernel's.
  int error() const { return error_; }
  // "outer: inner: strerror". Valid as long as the Error is.
  const char* what() const noexcept override { return text_.c_str(); }
  const std::string& text() const { return text_; }

  // The same failure, to whoever knows better what can be done about it.
  void set_code(Code code) { code_ = code; }
  // Puts what was being done further out in front.
  Error& add_context(std::string_view doing);

 private:
  Code code_;
  int error_;
  std::string text_;
};

// Throws an Error with the current errno. ENOMEM, ENOSPC, EMFILE, ENFILE, EDQUOT and EAGAIN of a
// fork become kResources and ESRCH kGone, unless `code` says something more specific than kFailed.
[[noreturn]] void throw_errno(std::string doing, Code code = Code::kFailed);
[[noreturn]] void throw_errno(std::string doing, int error, Code code = Code::kFailed);

// Runs f; an Error that leaves it gets `doing` in front.
template <class F>
decltype(auto) with_context(std::string_view doing, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (Error& error) {
    error.add_context(doing);
    throw;
  }
}

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);

}  // namespace telefork

#define TELEFORK_ASSERT(expression) \
  ((expression) ? void(0) : ::telefork::assertion_failed(#expression, __FILE__, __LINE__))
