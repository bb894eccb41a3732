#include "app/progress_line.h"

#include <utility>

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "app/output.h"

namespace telefork::app {
namespace {

using namespace std::chrono_literals;

constexpr auto kSoon = 500ms;
constexpr auto kBetween = 100ms;
// To the line's begin, and what stands there away (ECMA-48: EL).
constexpr const char* kNewLine = "\r\x1b[K";

void write_if_it_takes_it(const std::string& text) {
  pollfd terminal{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&terminal, 1, 0) != 1 || (terminal.revents & POLLOUT) == 0) return;
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

ProgressLine::ProgressLine(std::string what)
    : what_(std::move(what)), is_wanted_(::isatty(STDERR_FILENO) != 0) {}

void ProgressLine::show(std::uint64_t done, std::uint64_t expected) {
  if (!is_wanted_) return;
  const Clock::time_point at = Clock::now();
  if (begun_ == Clock::time_point()) begun_ = at;
  if (at - begun_ < kSoon || at - shown_ < kBetween) return;
  shown_ = at;
  is_shown_ = true;
  const double seconds = std::chrono::duration<double>(at - begun_).count();
  const auto rate = static_cast<std::uint64_t>(static_cast<double>(done) / seconds);
  write_if_it_takes_it(fmt::format("{}{}: {} of about {}, {} a second", kNewLine, what_,
                                   format_bytes(done), format_bytes(expected), format_bytes(rate)));
}

void ProgressLine::clear() {
  if (std::exchange(is_shown_, false)) write_if_it_takes_it(kNewLine);
}

}  // namespace telefork::app
