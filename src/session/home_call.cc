#include "session/home_call.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "session/registry.h"

namespace telefork::session {
namespace {

constexpr std::size_t kLongestRequest = 64;
constexpr std::size_t kLongestAnswer = 1024 * 1024;

std::string one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

// Up to the end of the stream, or to a newline.
std::string read_line(int socket) {
  std::string line;
  char c;
  while (line.size() < kLongestRequest && ::recv(socket, &c, 1, 0) == 1 && c != '\n') line += c;
  return line;
}

std::string read_all(int socket) {
  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t count = ::recv(socket, buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0 || text.size() > kLongestAnswer) return text;
    text.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

void send_all(int socket, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::send(socket, text.data(), text.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

double to_number(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

std::uint64_t to_count(const std::string& text) { return std::strtoull(text.c_str(), nullptr, 10); }

void take_line(const std::string& key, const std::string& value, HomeAnswer& answer) {
  if (key == "error") {
    const std::size_t space = value.find(' ');
    const std::uint64_t code = to_count(value);
    const bool known = code >= 1 && code <= static_cast<std::uint64_t>(Code::kGone);
    answer.error = Error(known ? static_cast<Code>(code) : Code::kFailed,
                         space == std::string::npos ? "" : value.substr(space + 1));
  } else if (key == "stood_still") {
    answer.stood_still = true;
  } else if (key == "node") {
    answer.node = value;
  } else if (key == "processes") {
    answer.processes = to_count(value);
  } else if (key == "bytes") {
    answer.bytes_sent = to_count(value);
  } else if (key == "pages") {
    answer.pages_sent = to_count(value);
  } else if (key == "freeze_ms") {
    answer.freeze_ms = to_number(value);
  } else if (key == "total_ms") {
    answer.total_ms = to_number(value);
  } else if (key == "warning") {
    answer.warnings.push_back(value);
  } else if (key == "step") {
    const std::size_t space = value.find(' ');
    if (space == std::string::npos) return;
    answer.shares.emplace_back(value.substr(0, space), to_number(value.substr(space)));
  }
}

}  // namespace

// One "key value" a line, and "end".
std::string encode_home_answer(const HomeAnswer& answer) {
  std::string text;
  if (answer.error) {
    text += fmt::format("error {} {}\n", static_cast<int>(answer.error->code()),
                        one_line(answer.error->text()));
  }
  if (answer.stood_still) text += "stood_still 1\n";
  text += fmt::format("node {}\nprocesses {}\nbytes {}\npages {}\nfreeze_ms {}\ntotal_ms {}\n",
                      one_line(answer.node), answer.processes, answer.bytes_sent, answer.pages_sent,
                      answer.freeze_ms, answer.total_ms);
  for (const auto& [step, ms] : answer.shares) text += fmt::format("step {} {}\n", step, ms);
  for (const std::string& warning : answer.warnings) {
    text += fmt::format("warning {}\n", one_line(warning));
  }
  return text + "end\n";
}

HomeAnswer decode_home_answer(const std::string& text) {
  HomeAnswer answer;
  std::size_t at = 0;
  for (;;) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos) throw Error(Code::kCorrupt, "the answer has no end");
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line == "end") return answer;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos) throw Error(Code::kCorrupt, "the answer has a strange line");
    take_line(line.substr(0, space), line.substr(space + 1), answer);
  }
}

bool HomeCaller::is_gone() const {
  char byte;
  return ::recv(talk_.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

void HomeCaller::answer(const HomeAnswer& answer) const {
  send_all(talk_.get(), encode_home_answer(answer));
}

HomeCall::HomeCall(const std::string& registry) {
  if (registry.empty()) return;
  try {
    listener_.emplace(net::listen_unix(call_path(registry, ::getpid()), 0600));
  } catch (const Error&) {
    // As of the registry itself: it cannot be called then, and who calls hears so.
  }
}

std::optional<HomeCaller> HomeCall::try_accept() {
  UniqueFd talk = listener_->try_accept();
  if (!talk) return std::nullopt;
  const uid_t caller = net::peer_credentials(talk.get()).uid;
  if (caller != 0 && caller != ::geteuid()) return std::nullopt;
  // A request is sent as soon as there is a connection.
  const timeval patience{1, 0};
  const timeval for_ever{0, 0};
  ::setsockopt(talk.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  const std::string request = read_line(talk.get());
  ::setsockopt(talk.get(), SOL_SOCKET, SO_RCVTIMEO, &for_ever, sizeof(for_ever));
  if (!request.starts_with("home ")) return std::nullopt;
  return HomeCaller(std::move(talk), request.substr(5));
}

UniqueFd connect_home_call(const std::string& path, const std::string& stop_at) {
  UniqueFd talk = net::connect_unix(path)->release();
  send_all(talk.get(), fmt::format("home {}\n", stop_at));
  return talk;
}

HomeAnswer receive_home_answer(const UniqueFd& talk) {
  const std::string text = read_all(talk.get());
  if (text.empty()) throw Error(Code::kLost, "the process that carries it has ended");
  return decode_home_answer(text);
}

}  // namespace telefork::session
