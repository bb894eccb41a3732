#include "session/input_carrier.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <vector>

#include <poll.h>

#include "base/error.h"
#include "net/stream.h"
#include "proxy/shared_fd.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;
using proxy::SharedFd;

// How soon a terminal's input is read after its reader came to the foreground, which no event
// tells.
constexpr auto kForegroundInterval = 200ms;

bool is_broken(const pollfd& sink) { return (sink.revents & POLLERR) != 0; }

// False: nobody reads it.
bool write_all(const SharedFd& sink, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    pollfd entry{sink.get(), POLLOUT, 0};
    net::poll_until({&entry, 1}, net::Deadline::never());
    const SharedFd::Result result = sink.try_write(bytes);
    if (result.error != 0) return false;
    if (result.count) bytes = bytes.subspan(*result.count);
  }
  return true;
}

}  // namespace

void carry_input(UniqueFd source, std::span<const std::byte> first, UniqueFd sink,
                 const std::function<bool()>& may_read) {
  const SharedFd to(std::move(sink), SharedFd::Direction::kWrite);
  if (!write_all(to, first) || !source) return;
  const SharedFd from(std::move(source), SharedFd::Direction::kRead);
  std::vector<std::byte> buffer(PIPE_BUF);
  for (;;) {
    const bool may = !may_read || may_read();
    // Of the pipe only that it is broken, which needs no asking.
    pollfd entries[] = {{to.get(), 0, 0}, {may ? from.get() : -1, POLLIN, 0}};
    net::poll_until(entries, may ? net::Deadline::never() : net::Deadline::in(kForegroundInterval));
    if (is_broken(entries[0])) return;
    if (entries[1].revents == 0) continue;
    const SharedFd::Result result = from.try_read(buffer);
    if (result.error != 0 || result.count == 0) return;
    if (result.count && !write_all(to, std::span(buffer).first(*result.count))) return;
  }
}

}  // namespace telefork::session
