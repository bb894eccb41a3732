#include "session/following.h"

#include <array>
#include <utility>

#include "base/error.h"
#include "kernel/write_watch.h"
#include "net/fd_passing.h"
#include "net/fd_stream.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

constexpr auto kArrivalPatience = 10s;  // it was sent ahead of what announced it

}  // namespace

std::unique_ptr<net::Stream> receive_page_connection(const protocol::Link& link) {
  if (link.bulk_fd() < 0) throw Error(Code::kCorrupt, "memory cannot follow on this link");
  std::array<std::byte, 1> byte{};
  net::ReceivedFds received =
      net::receive_fds(link.bulk_fd(), byte, 1, net::Deadline::in(kArrivalPatience));
  if (received.fds.size() != 1) throw Error(Code::kLost, "the page connection did not come");
  return std::make_unique<net::FdStream>(std::move(received.fds[0]), link.node());
}

std::function<void(restore::LazyMemory)> Following::taker(bool tracks) {
  return [this, tracks](restore::LazyMemory lazy) { take(std::move(lazy), tracks); };
}

void Following::take(restore::LazyMemory lazy, bool tracks) {
  kernel::Userfault faults(std::move(lazy.userfaultfd), tracks);
  for (const kernel::PageRun& range : lazy.ranges) {
    faults.enlist(range.start, range.pages * kPageSize, tracks);
  }
  // Without one of its own the pager ends it when all has come.
  if (tracks) faults_.emplace(faults.duplicate());
  begun_ = true;
  pager_.begin(lazy.guest, std::move(faults), lazy.ranges, lazy.arrived, std::move(lazy.wiped),
               tracks, lazy.process);
  if (tracks) ranges_ = std::move(lazy.ranges);
}

void Following::let_come() {
  if (from_home_) let_rest_come();
}

void Following::let_rest_come() {
  if (has_begun() && !std::exchange(comes_, true)) pager_.let_come();
}

void Following::report(SessionInfo& info) const {
  const migrate::Pager::Progress progress = pager_.progress();
  info.mode = begun_ && from_home_ ? "lazy" : "eager";
  info.pages_missing = progress.missing;
  info.pages_came = progress.pages;
  info.faults = progress.faults;
  info.blocked_us = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(progress.blocked).count());
}

void Following::settle() {
  if (!has_begun()) return;
  pager_.hold();
  pager_.fetch_moved();
}

std::vector<kernel::PageRun> Following::missing() const {
  if (!has_begun()) return {};
  return pager_.missing(RemotePtr(), RemotePtr(~std::uint64_t{0}));
}

std::vector<kernel::PageRun> Following::came(RemotePtr start, RemotePtr end) const {
  const std::vector<kernel::PageRun> missing = pager_.missing(start, end);
  return kernel::subtract_runs(ranges_, start, end, missing);
}

}  // namespace telefork::session
