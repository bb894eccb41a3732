#include "session/trust_channel.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include <poll.h>
#include <sys/socket.h>

#include "base/error.h"
#include "net/fd_passing.h"
#include "net/stream.h"

namespace telefork::session {
namespace {

constexpr char kQuestion = '?';
constexpr std::string_view kYes = "y";
constexpr std::string_view kJoined = "j";
// With a connection that takes the place of a lost one.
constexpr std::byte kControlAgain{'c'};
constexpr std::byte kPagesAgain{'p'};
constexpr std::size_t kMostText = 4096;

}  // namespace

bool TrustChannel::try_take_question(int channel, bool& asked) {
  char byte = 0;
  ssize_t count = ::recv(channel, &byte, 1, MSG_DONTWAIT);
  asked = count == 1 && byte == kQuestion;
  return count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR));
}

void TrustChannel::send_verdict(int channel, const std::optional<std::string>& why) {
  std::string_view text = why ? std::string_view(*why).substr(0, kMostText) : kYes;
  [[maybe_unused]] ssize_t sent =
      ::send(channel, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void TrustChannel::send_resumption(int channel, int connection, bool pages) {
  // Whoever may ask for this may ask often, and the keeper be busy.
  pollfd room{channel, POLLOUT, 0};
  if (::poll(&room, 1, 0) <= 0)
    throw Error(Code::kLost, "its keeper takes no more connections now");
  const std::byte which = pages ? kPagesAgain : kControlAgain;
  const int fds[] = {connection};
  net::send_fds(channel, std::span(&which, 1), fds);
}

// Empty: there is nobody.
std::string TrustAsker::receive() {
  std::array<std::byte, kMostText> bytes;
  net::ReceivedFds received = net::receive_fds(channel_.get(), bytes, 1, net::Deadline::never());
  if (!received.fds.empty() && received.bytes == 1) {
    resumption_ = Resumption{std::move(received.fds[0]), bytes[0] == kPagesAgain};
    return std::string(kJoined);
  }
  if (!received.fds.empty()) {
    Join join{std::move(received.fds[0]), {}};
    if (received.bytes != join.secret.size()) {
      throw Error(Code::kCorrupt, "a secret of a wrong length");
    }
    std::copy_n(bytes.begin(), join.secret.size(), join.secret.begin());
    join_ = std::move(join);
    return std::string(kJoined);
  }
  return {reinterpret_cast<const char*>(bytes.data()), received.bytes};
}

bool TrustAsker::take_word() {
  std::string word = receive();
  const bool is_complaint = !word.empty() && word != kYes && word != kJoined;
  if (is_complaint) throw Error(Code::kUnauthorised, word);
  return !word.empty();
}

void TrustAsker::ask() {
  if (!channel_) return;
  if (::send(channel_.get(), &kQuestion, 1, MSG_NOSIGNAL) == 1) return;
  throw Error(Code::kLost, "telepad has ended, and cannot be asked whether it trusts this key");
}

void TrustAsker::await_answer(net::Deadline deadline) {
  if (!channel_) return;
  pollfd entries[] = {{channel_.get(), POLLIN, 0}};
  std::string answer(kJoined);
  while (answer == kJoined) {
    answer = net::poll_until(entries, deadline) > 0 ? receive() : "";
  }
  if (answer.empty()) {
    throw Error(Code::kLost, "telepad does not answer whether it trusts this key");
  }
  if (answer != kYes) throw Error(Code::kUnauthorised, answer);
}

}  // namespace telefork::session
