#include "session/node_connector.h"

#include <cerrno>

#include <fmt/format.h>
#include <sys/utsname.h>

#include "base/error.h"
#include "base/shell_word.h"
#include "net/identity.h"
#include "net/tls_stream.h"
#include "net/trust.h"
#include "net/unix_stream.h"
#include "protocol/handshake.h"
#include "session/ssh_stream.h"

namespace telefork::session {
namespace {

using net::NodeAddress;

// For commands that mend: whoever types them may have another HOME than the process that asks here,
// which an agent has from its telepad.
std::string keys_option(const std::string& folder) { return "--keys " + quote_for_shell(folder); }

// A call may go on from where it has come to.
std::string this_host() {
  utsname names{};
  ::uname(&names);
  return names.nodename;
}

net::Identity load_own(const std::string& folder) {
  try {
    return net::Identity::load(folder);
  } catch (const Error& error) {
    if (error.error() != ENOENT) throw;
    throw Error(Code::kUnauthorised,
                fmt::format("there is no key of yours in {} on {}: telefork keygen {} makes one",
                            folder, this_host(), keys_option(folder)));
  }
}

}  // namespace

void check_bandwidth(const NodeAddress& node, const NodeAccess& access) {
  if (access.bandwidth == 0 || node.kind == NodeAddress::Kind::kTcp) return;
  throw Error(Code::kRefused,
              fmt::format("{}: only of what goes by TCP and TLS can the bandwidth be limited{}",
                          node.text(),
                          node.kind == NodeAddress::Kind::kSsh ? ", and ssh has its own" : ""));
}

NodeConnector::NodeConnector(NodeAddress node, NodeAccess access)
    : node_(std::move(node)), access_(std::move(access)) {
  TELEFORK_ASSERT(node_.kind != NodeAddress::Kind::kLocal);
}

std::unique_ptr<net::Stream> NodeConnector::connect(net::Deadline deadline) {
  switch (node_.kind) {
    case NodeAddress::Kind::kTcp:
      return connect_tls(deadline);
    case NodeAddress::Kind::kSsh:
      return SshStream::connect(node_, access_.ssh, access_.ssh_telepad);
    default:
      return net::connect_unix(node_.path);
  }
}

// The key that is pinned decides, and nothing else that the node says of itself.
void NodeConnector::check_peer(const net::PublicKey& key) const {
  std::string name = node_.text();
  std::string remedy = fmt::format("telefork trust {} {} {}", quote_for_shell(name), key.text(),
                                   keys_option(access_.keys));
  std::optional<net::KnownNode> known = net::find_node(net::read_known_nodes(access_.keys), name);
  if (!known) {
    throw Error(
        Code::kUnauthorised,
        fmt::format("{}: its key is not trusted yet; if it is the one that `telefork keygen "
                    "--telepad` has printed there: {}",
                    name, remedy));
  }
  if (known->key == key) return;
  throw Error(Code::kUnauthorised,
              fmt::format("{}: it has another key than the one that is trusted, {}; somebody else "
                          "may have answered. If its key was made anew: {}",
                          name, known->key.text(), remedy));
}

std::unique_ptr<net::Stream> NodeConnector::connect_tls(net::Deadline deadline) {
  net::Identity own = load_own(access_.keys);
  // Also when nobody answers: a damaged file is told at once.
  net::read_known_nodes(access_.keys);
  if (addresses_.empty()) addresses_ = net::resolve(node_);
  net::TcpConnection tcp =
      net::connect_tcp(addresses_, node_.text(), net::TcpUse::kControl, deadline);
  net::limit_rate(tcp.socket.get(), access_.bandwidth);
  auto stream = net::TlsStream::connect(
      std::move(tcp.socket), node_.text(), own,
      [this](const net::PublicKey& key) {
        check_peer(key);
        shown_ = key;
      },
      deadline);
  addresses_ = {tcp.peer};
  return stream;
}

bool NodeConnector::still_trusts() const {
  if (!shown_) return true;
  std::optional<net::KnownNode> known =
      net::find_node(net::read_known_nodes(access_.keys), node_.text());
  return known && known->key == *shown_;
}

std::unique_ptr<net::Stream> NodeConnector::connect_bulk(std::span<const std::byte> id,
                                                         std::span<const std::byte> secret,
                                                         net::Deadline deadline) {
  std::string name = node_.text();
  if (node_.kind != NodeAddress::Kind::kTcp || id.size() != protocol::kJoinIdSize ||
      secret.size() != protocol::kJoinSecretSize) {
    throw Error(Code::kCorrupt, name + ": it offers a bulk connection that cannot be");
  }
  net::TcpConnection tcp = net::connect_tcp(addresses_, name, net::TcpUse::kBulk, deadline);
  net::limit_rate(tcp.socket.get(), access_.bandwidth);
  net::FdStream plain(std::move(tcp.socket), name);
  plain.write_all(std::as_bytes(std::span(protocol::kJoinPreamble)), id, deadline);
  return net::TlsStream::connect(plain.release(), name, secret, deadline);
}

}  // namespace telefork::session
