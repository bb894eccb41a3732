#include "session/guard_channel.h"

#include <array>
#include <cerrno>
#include <cstddef>

#include <sys/socket.h>

#include "base/error.h"
#include "net/deadline.h"
#include "net/fd_passing.h"
#include "net/stream.h"

namespace telefork::session {
namespace {

constexpr std::byte kHold{'h'};
constexpr std::byte kRelease{'r'};
// Of one keeper, which is a user's: a telepad has others to serve.
constexpr std::size_t kMost = 256;

}  // namespace

void GuardChannel::hold(int fd) const {
  if (!channel_) return;
  const int fds[] = {fd};
  try {
    net::send_fds(channel_.get(), std::span(&kHold, 1), fds);
  } catch (const Error& error) {
    // A telepad that has ended kills nobody either.
    if (error.error() != EPIPE && error.error() != ECONNRESET) throw;
  }
}

void GuardChannel::release() const {
  // A telepad that has ended holds nothing.
  if (channel_) ::send(channel_.get(), &kRelease, 1, MSG_NOSIGNAL);
}

void GuardedFds::take() {
  while (channel_) {
    pollfd entry{channel_.get(), POLLIN, 0};
    if (net::poll_until({&entry, 1}, net::Deadline::now()) == 0) return;
    std::array<std::byte, 1> word{};
    net::ReceivedFds received = net::receive_fds(channel_.get(), word, 1, net::Deadline::now());
    if (received.bytes == 0) {
      channel_.reset();
    } else if (!received.fds.empty()) {
      if (fds_.size() < kMost) fds_.push_back(std::move(received.fds[0]));
    } else if (word[0] == kRelease) {
      fds_.clear();
    }
  }
}

}  // namespace telefork::session
