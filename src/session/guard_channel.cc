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
constexpr std::byte kThere{'y'};
constexpr std::byte kNotThere{'n'};
// Of one keeper, which is a user's: a telepad has others to serve.
constexpr std::size_t kMostGuarded = 256;
constexpr std::size_t kMostWords = 8;  // at a time

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
  while (channel_ && keep_words_.size() < kMostWords) {
    pollfd entry{channel_.get(), POLLIN, 0};
    if (net::poll_until({&entry, 1}, net::Deadline::now()) == 0) return;
    std::array<std::byte, 1 + kKeptNameSize> word{};
    net::ReceivedFds received = net::receive_fds(channel_.get(), word, 1, net::Deadline::now());
    if (received.bytes == 0) {
      channel_.reset();
    } else if (received.bytes == word.size()) {
      UniqueFd file = received.fds.empty() ? UniqueFd() : std::move(received.fds[0]);
      keep_words_.push_back({word[0], {word.begin() + 1, word.end()}, std::move(file)});
    } else if (!received.fds.empty()) {
      if (fds_.size() < kMostGuarded) fds_.push_back(std::move(received.fds[0]));
    } else if (word[0] == kRelease) {
      fds_.clear();
    }
  }
}

void GuardedFds::answer(const UniqueFd& file) const {
  if (!channel_) return;
  const int fds[] = {file.get()};
  try {
    net::send_fds(channel_.get(), std::span(file ? &kThere : &kNotThere, 1),
                  file ? std::span<const int>(fds) : std::span<const int>());
  } catch (const Error&) {
    // It has ended.
  }
}

}  // namespace telefork::session
