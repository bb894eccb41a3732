#include "base/error.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <unistd.h>

namespace telefork {
namespace {

Code code_of_errno(int error, Code code) {
  if (code != Code::kFailed) return code;
  switch (error) {
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EDQUOT:
      return Code::kResources;
    case ESRCH:
      return Code::kGone;
    case EPIPE:
    case ECONNRESET:
      return Code::kLost;
    default:
      return code;
  }
}

}  // namespace

std::string_view code_name(Code code) {
  switch (code) {
    case Code::kFailed:
      return "failed";
    case Code::kUsage:
      return "usage";
    case Code::kRefused:
      return "refused";
    case Code::kUnreachable:
      return "unreachable";
    case Code::kUnauthorised:
      return "not authorised";
    case Code::kLost:
      return "lost";
    case Code::kCorrupt:
      return "corrupt";
    case Code::kResources:
      return "out of resources";
    case Code::kUnsupported:
      return "unsupported";
    case Code::kGone:
      return "gone";
  }
  return "failed";
}

Error::Error(Code code, std::string doing, int error)
    : code_(code), error_(error), text_(std::move(doing)) {
  if (error != 0) text_ += fmt::format(": {}", std::strerror(error));
}

Error& Error::add_context(std::string_view doing) {
  text_ = fmt::format("{}: {}", doing, text_);
  return *this;
}

void throw_errno(std::string doing, int error, Code code) {
  throw Error(code_of_errno(error, code), std::move(doing), error);
}

void throw_errno(std::string doing, Code code) { throw_errno(std::move(doing), errno, code); }

void assertion_failed(const char* expression, const char* file, int line) {
  std::string text =
      fmt::format("telefork: bug: {}:{}: {} does not hold\n", file, line, expression);
  // Nothing can be done about a failed write of the last words.
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
  std::abort();
}

}  // namespace telefork
