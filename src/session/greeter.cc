#include "session/greeter.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
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
constexpr std::byte kFault{2};
// For last words, once one end has closed.
constexpr auto kGreeterLastWords = 10s;

// That the other end has gone or says nothing is not what matters then.
void turn_away(UniqueFd connection, net::Deadline deadline) {
  try {
    net::TlsStream::turn_away(std::move(connection), "the peer", deadline);
  } catch (const Error&) {
  }
}

std::vector<std::byte> encode_failure(std::byte whose, const Error& error) {
  std::vector<std::byte> report = {whose};
  for (char c : error.text()) report.push_back(static_cast<std::byte>(c));
  report.resize(std::min(report.size(), kMaxGreeterReport));
  return report;
}

}  // namespace

void run_greeter(GreeterSettings settings) {
  net::FdStream telepad(std::move(settings.telepad), "telepad");
  net::Deadline deadline = net::Deadline::in(protocol::kHandshakePatience);
  std::optional<net::Identity> own;
  std::optional<Error> fault;
  try {
    own = net::Identity::load(settings.keys);
  } catch (const Error& error) {
    fault = error;
  }
  int error = become_nobody();
  if (error != 0) {
    fault = Error(Code::kFailed, "becoming nobody", error);
  } else if (fault) {
    turn_away(std::move(settings.connection), deadline);
  }
  if (fault) {
    telepad.write_all(encode_failure(kFault, *fault), deadline);
    throw Error(*fault);
  }
  std::unique_ptr<net::TlsStream> peer;
  try {
    // It has forgotten the private key when it is there.
    peer = net::TlsStream::accept(std::move(settings.connection), "the peer", *own, deadline);
    own.reset();
  } catch (const Error& failure) {
    telepad.write_all(encode_failure(kFailure, failure), deadline);
    throw;
  }
  telepad.write_all(std::span(&kWelcome, 1), peer->peer_key().bytes, deadline);
  net::relay(*peer, telepad, kGreeterLastWords);
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

bool is_fault_of_this_machine(std::span<const std::byte> report) {
  return !report.empty() && report[0] == kFault;
}

std::string decode_greeter_failure(std::span<const std::byte> report) {
  std::string text;
  for (std::byte byte : report.subspan(1)) text += static_cast<char>(byte);
  return text;
}

}  // namespace telefork::session
