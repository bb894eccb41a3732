#include "session/greeter.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <vector>

#include "base/error.h"
#include "net/fd_stream.h"
#include "net/relay.h"
#include "net/tls_stream.h"
#include "protocol/handshake.h"
#include "session/become_user.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

constexpr std::byte kWelcome{1};
constexpr std::byte kFailure{0};
// For last words, once one end has closed.
constexpr auto kLastWords = 10s;

std::unique_ptr<net::TlsStream> greet(UniqueFd connection, const std::string& keys,
                                      net::Deadline deadline) {
  net::Identity own = net::Identity::load(keys);
  if (int error = become_nobody(); error != 0) throw_errno("becoming nobody", error);
  // The TlsStream has forgotten the private key when it is there, and `own` ends here.
  return net::TlsStream::accept(std::move(connection), "the peer", own, deadline);
}

std::vector<std::byte> encode_failure(const Error& error) {
  std::vector<std::byte> report = {kFailure};
  for (char c : error.text()) report.push_back(static_cast<std::byte>(c));
  report.resize(std::min(report.size(), kMaxGreeterReport));
  return report;
}

}  // namespace

void run_greeter(GreeterSettings settings) {
  net::FdStream telepad(std::move(settings.telepad), "telepad");
  net::Deadline deadline = net::Deadline::in(protocol::kHandshakePatience);
  std::unique_ptr<net::TlsStream> peer;
  try {
    peer = greet(std::move(settings.connection), settings.keys, deadline);
  } catch (const Error& error) {
    telepad.write_all(encode_failure(error), deadline);
    throw;
  }
  telepad.write_all(std::span(&kWelcome, 1), peer->peer_key().bytes, deadline);
  net::relay(*peer, telepad, kLastWords);
}

std::size_t greeter_report_size(std::span<const std::byte> begun) {
  if (begun.empty()) return 1;
  return begun[0] == kWelcome ? 1 + sizeof(net::PublicKey::bytes) : kMaxGreeterReport;
}

net::PublicKey decode_greeter_report(std::span<const std::byte> report) {
  TELEFORK_ASSERT(report.size() == greeter_report_size(report));
  net::PublicKey key;
  std::copy(report.begin() + 1, report.end(), key.bytes.begin());
  return key;
}

std::string decode_greeter_failure(std::span<const std::byte> report) {
  std::string text;
  for (std::byte byte : report.subspan(1)) text += static_cast<char>(byte);
  return text;
}

}  // namespace telefork::session
