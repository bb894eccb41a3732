#include "session/trust_channel.h"

#include <array>
#include <cerrno>
#include <string_view>

#include <poll.h>
#include <sys/socket.h>

#include "base/error.h"
#include "net/stream.h"

namespace telefork::session {
namespace {

constexpr char kQuestion = '?';
constexpr std::string_view kYes = "y";
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

// Empty: there is nobody.
std::string TrustAsker::receive() {
  std::array<char, kMostText> text;
  ssize_t count;
  do {
    count = ::recv(channel_.get(), text.data(), text.size(), 0);
  } while (count < 0 && errno == EINTR);
  if (count < 0) throw_errno("hearing from telepad");
  return {text.data(), static_cast<std::size_t>(count)};
}

bool TrustAsker::take_word() {
  std::string word = receive();
  if (!word.empty() && word != kYes) throw Error(Code::kUnauthorised, word);
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
  std::string answer = net::poll_until(entries, deadline) > 0 ? receive() : "";
  if (answer.empty()) {
    throw Error(Code::kLost, "telepad does not answer whether it trusts this key");
  }
  if (answer != kYes) throw Error(Code::kUnauthorised, answer);
}

}  // namespace telefork::session
