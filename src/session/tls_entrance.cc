#include "session/tls_entrance.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <fmt/format.h>
#include <pwd.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/shell_word.h"
#include "net/identity.h"
#include "net/trust.h"
#include "session/greeter.h"
#include "session/spawn.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMaxIncoming = 256;
constexpr std::size_t kMaxHandshakes = 64;
// What a handshake may take in all, and what nobody is cut short of.
constexpr auto kHelloPatience = protocol::kHandshakePatience;
constexpr auto kGrace = 2s;
constexpr auto kAcceptAgainAfter = 200ms;
constexpr std::byte kTlsHandshake{0x16};  // RFC 8446, 5.1: ContentType

net::KeysFor keys_for_this_user() {
  return ::geteuid() == 0 ? net::KeysFor::kEveryUser : net::KeysFor::kOneUser;
}

// The commands that mend, as they have to be typed on this machine.
std::string quote_keygen(const TlsEntrance::Settings& settings) {
  if (settings.keys_are_default) return "telefork keygen --telepad";
  return "telefork keygen --keys " + quote_for_shell(settings.keys);
}

std::string quote_trust(const TlsEntrance::Settings& settings, const net::PublicKey& key) {
  std::string command = "telefork trust " + key.text();
  if (::geteuid() == 0) command += " --as USER";
  if (!settings.keys_are_default) command += " --keys " + quote_for_shell(settings.keys);
  return command;
}

void check_keys(const TlsEntrance::Settings& settings) {
  try {
    net::Identity::load(settings.keys);
  } catch (const Error& error) {
    if (error.error() != ENOENT) throw;
    throw Error(Code::kUsage,
                fmt::format("to listen on TCP takes a key, and there is none in {}: {} makes one",
                            settings.keys, quote_keygen(settings)));
  }
  net::read_trusted_keys(settings.keys, keys_for_this_user());
}

// A damaged file concerns whoever looks after this machine, not who asks.
std::string text_for_peer(const Error& error, const net::PublicKey& key) {
  if (error.code() == Code::kUnauthorised && error.error() == 0 &&
      error.text().find(key.text()) != std::string::npos) {
    return error.text();
  }
  spdlog::error("{}", error.text());
  return "this telepad cannot read which keys it is to trust; its log says why";
}

}  // namespace

TlsEntrance::TlsEntrance(Settings settings) : settings_(std::move(settings)) {
  if (settings_.listen.empty()) return;
  check_keys(settings_);
  for (const std::string& where : settings_.listen) {
    listeners_.push_back(net::listen_tcp(where));
    spdlog::info("listening on {}", listeners_.back().address().text());
  }
}

void TlsEntrance::add_interest(std::vector<pollfd>& entries) const {
  if (!accept_again_ && incoming_.size() < kMaxIncoming) {
    for (const net::TcpListener& listener : listeners_) {
      entries.push_back({listener.fd(), POLLIN, 0});
    }
  }
  // A greeter's turn comes with an event of a handshake.
  for (const Incoming& one : incoming_) {
    if (!one.waits_for_turn) entries.push_back({one.socket.get(), POLLIN, 0});
  }
  for (const Handshake& one : handshakes_) entries.push_back({one.channel.get(), POLLIN, 0});
}

// Somebody waits for a place among the handshakes.
bool TlsEntrance::has_no_room() const {
  return handshakes_.size() >= kMaxHandshakes &&
         std::any_of(incoming_.begin(), incoming_.end(),
                     [](const Incoming& one) { return one.waits_for_turn; });
}

std::optional<TlsEntrance::Clock::time_point> TlsEntrance::next_turn() const {
  std::optional<Clock::time_point> next = accept_again_;
  auto take = [&](Clock::time_point time) { next = next ? std::min(*next, time) : time; };
  for (const Incoming& one : incoming_) take(one.since + kHelloPatience);
  for (const Handshake& one : handshakes_) take(one.since + kHelloPatience);
  // Where all is full somebody may have to make room.
  if (incoming_.size() >= kMaxIncoming) take(incoming_.front().since + kGrace);
  if (has_no_room()) take(handshakes_.front().started + kGrace);
  return next;
}

void TlsEntrance::on_ready() {
  if (listeners_.empty()) return;
  advance_all(handshakes_);
  advance_all(incoming_);
  auto now = Clock::now();
  if (has_no_room() && now >= handshakes_.front().started + kGrace) {
    spdlog::warn("{}: others need its place, and it does not shake hands", handshakes_.front().who);
    ::kill(handshakes_.front().greeter, SIGKILL);
    handshakes_.pop_front();
    advance_all(incoming_);
  }
  if (incoming_.size() >= kMaxIncoming && now >= incoming_.front().since + kGrace) {
    spdlog::warn("{}: others need its place, and it says nothing", incoming_.front().who);
    incoming_.pop_front();
  }
  accept_all();
}

template <class Waiting>
void TlsEntrance::advance_all(std::list<Waiting>& waiting) {
  for (auto one = waiting.begin(); one != waiting.end();) {
    Progress progress = Progress::kDone;
    try {
      progress = advance(*one);
      if (progress == Progress::kWaits && Clock::now() >= one->since + kHelloPatience) {
        throw Error(Code::kLost, "it did not shake hands in time");
      }
    } catch (const Error& error) {
      progress = Progress::kDone;
      spdlog::warn("{}: {}", one->who, error.text());
    }
    one = progress == Progress::kDone ? waiting.erase(one) : std::next(one);
  }
}

void TlsEntrance::accept_all() {
  if (accept_again_ && Clock::now() < *accept_again_) return;
  accept_again_.reset();
  for (net::TcpListener& listener : listeners_) {
    try {
      while (incoming_.size() < kMaxIncoming) {
        net::TcpListener::Accepted accepted = listener.try_accept();
        if (!accepted.socket) break;
        net::set_up_tcp(accepted.socket.get(), net::TcpUse::kControl);
        incoming_.push_back({std::move(accepted.socket), accepted.peer.text(), Clock::now()});
      }
    } catch (const Error& error) {
      spdlog::error("{}", error.text());
      accept_again_ = Clock::now() + kAcceptAgainAfter;
    }
  }
}

TlsEntrance::Progress TlsEntrance::advance(Incoming& incoming) {
  constexpr std::size_t kPreamble = protocol::kJoinPreamble.size();
  std::array<std::byte, kPreamble + protocol::kJoinIdSize> bytes;
  int socket = incoming.socket.get();
  ssize_t received = ::recv(socket, bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) return Progress::kWaits;
  if (received < 0) throw_errno("reading its first bytes");
  if (received == 0) throw Error(Code::kLost, "it closed before it said anything");
  auto count = static_cast<std::size_t>(received);
  if (bytes[0] == kTlsHandshake) {
    incoming.waits_for_turn = handshakes_.size() >= kMaxHandshakes;
    if (incoming.waits_for_turn) return Progress::kWaits;
    start_greeter(incoming);
    return Progress::kDone;
  }
  if (std::memcmp(bytes.data(), protocol::kJoinPreamble.data(), std::min(count, kPreamble)) != 0) {
    throw Error(Code::kCorrupt, "it is no telefork");
  }
  if (count < bytes.size()) return Progress::kWaits;
  [[maybe_unused]] ssize_t taken = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
  Join join{std::move(incoming.socket), incoming.who, {}};
  std::copy(bytes.begin() + kPreamble, bytes.end(), join.id.begin());
  joins_.push_back(std::move(join));
  return Progress::kDone;
}

void TlsEntrance::start_greeter(Incoming& incoming) {
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  pid_t greeter = spawn({settings_.greeter,
                         {"--socket", "3", "--telepad", "4", "--keys", settings_.keys},
                         {incoming.socket.get(), theirs.get()},
                         true,
                         {}});
  greeters_.insert(greeter);
  handshakes_.push_back({std::move(ours), incoming.who, greeter, incoming.since, Clock::now(), {}});
}

TlsEntrance::Progress TlsEntrance::advance(Handshake& handshake) {
  std::vector<std::byte>& report = handshake.report;
  for (;;) {
    std::array<std::byte, kMaxGreeterReport> bytes;
    std::size_t missing = greeter_report_size(report) - report.size();
    if (missing == 0) break;
    ssize_t count = ::recv(handshake.channel.get(), bytes.data(), missing, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return Progress::kWaits;
    if (count < 0) throw_errno("hearing from its greeter");
    if (count == 0) {
      if (report.empty()) throw Error(Code::kLost, "its greeter has ended");
      std::string why = decode_greeter_failure(report);
      if (!is_fault_of_this_machine(report)) throw Error(Code::kUnauthorised, why);
      spdlog::error("{}: {}", handshake.who, why);
      return Progress::kDone;
    }
    report.insert(report.end(), bytes.begin(), bytes.begin() + count);
  }
  take_report(handshake);
  return Progress::kDone;
}

void TlsEntrance::take_report(Handshake& handshake) {
  net::PublicKey key = decode_greeter_report(handshake.report);
  Arrival arrival{
      std::move(handshake.channel), fmt::format("{}, {}", handshake.who, key.text()), 0, key, {}};
  try {
    arrival.uid = find_uid(key);
  } catch (const Error& error) {
    arrival.refusal = Error(Code::kUnauthorised, text_for_peer(error, key));
  }
  arrivals_.push_back(std::move(arrival));
}

std::optional<std::string> TlsEntrance::refuse_key(const net::PublicKey& key, uid_t uid) const {
  try {
    if (find_uid(key) == uid) return std::nullopt;
    return fmt::format("the key {} is another user's now on this telepad's machine", key.text());
  } catch (const Error& error) {
    return text_for_peer(error, key);
  }
}

uid_t TlsEntrance::find_uid(const net::PublicKey& key) const {
  net::KeysFor keys_for = keys_for_this_user();
  std::optional<net::TrustedKey> trusted =
      net::find_key(net::read_trusted_keys(settings_.keys, keys_for), key);
  if (!trusted) {
    throw Error(Code::kUnauthorised,
                fmt::format("this telepad does not trust the key {}; on its machine: {}",
                            key.text(), quote_trust(settings_, key)));
  }
  if (keys_for == net::KeysFor::kOneUser) return ::geteuid();
  errno = 0;
  const passwd* entry = ::getpwnam(trusted->user.c_str());
  if (entry == nullptr) {
    throw Error(Code::kUnauthorised,
                fmt::format("the key {} is to be user {}, who is not there; on this telepad's "
                            "machine: {}",
                            key.text(), trusted->user, quote_trust(settings_, key)));
  }
  return entry->pw_uid;
}

}  // namespace telefork::session
