#include "net/tcp_stream.h"

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/tcp.h>

#include "base/error.h"
#include "net/stream.h"

namespace telefork::net {
namespace {

// Heartbeats begin with the guest. A connection that waits for one before that would outlive for
// ever a machine that went without a word.
constexpr int kKeepIdle = 60;  // seconds
constexpr int kKeepInterval = 10;
constexpr int kKeepTries = 3;
constexpr auto kNear = std::chrono::milliseconds(5);  // a round trip
constexpr std::size_t kLongestName = 16;              // TCP_CA_NAME_MAX

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

// Empty, and why in `error`, where there is none.
AddressList look_up(const char* host, const std::string& port, int flags, int& error) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  error = ::getaddrinfo(host, port.c_str(), &hints, &found);
  return {error == 0 ? found : nullptr, ::freeaddrinfo};
}

SocketAddress to_address(const sockaddr* address, socklen_t size) {
  SocketAddress copy;
  copy.size = size;
  std::memcpy(&copy.storage, address, size);
  return copy;
}

const sockaddr* as_sockaddr(const SocketAddress& address) {
  return reinterpret_cast<const sockaddr*>(&address.storage);
}

UniqueFd make_socket(const SocketAddress& address) {
  // Not blocking, so that connecting has a deadline; whoever reads it later does not wait in any
  // case.
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw_errno("making a TCP socket");
  return fd;
}

// 0 or the errno.
int try_connect(int socket, const SocketAddress& address, Deadline deadline) {
  if (::connect(socket, as_sockaddr(address), address.size) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  pollfd entry{socket, POLLOUT, 0};
  if (poll_until({&entry, 1}, deadline) == 0) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof(error);
  if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

[[noreturn]] void refuse(std::string_view where, std::string_view why) {
  throw Error(Code::kUsage,
              fmt::format("listening on {}: {}; an address is as 0.0.0.0:{} or [::]:{}", where, why,
                          kDefaultPort, kDefaultPort));
}

struct Where {
  std::string host;  // empty: every address
  std::string port = std::to_string(kDefaultPort);
};

Where parse_where(std::string_view where) {
  Where parsed;
  std::string_view host = where;
  std::optional<std::string_view> port;
  bool bracket = where.starts_with('[');
  std::size_t close = bracket ? where.find(']') : 0;
  if (close == where.npos) refuse(where, "']' is missing");
  if (bracket) {
    host = where.substr(1, close - 1);
    std::string_view after = where.substr(close + 1);
    if (!after.empty() && after.front() != ':') refuse(where, "only ':PORT' can follow ']'");
    if (!after.empty()) port = after.substr(1);
  } else if (auto colon = where.find(':'); colon != where.npos) {
    if (where.find(':', colon + 1) != where.npos) refuse(where, "an IPv6 address needs brackets");
    host = where.substr(0, colon);
    port = where.substr(colon + 1);
  }
  if (port) {
    unsigned number = 0;
    auto [end, error] = std::from_chars(port->data(), port->data() + port->size(), number);
    if (error != std::errc() || end != port->data() + port->size() || number > 65535) {
      refuse(where, fmt::format("'{}' is no port", *port));
    }
    parsed.port = *port;
  }
  if (host != "*") parsed.host = host;
  return parsed;
}

void set_option(int socket, int level, int option, int value, const char* doing) {
  if (::setsockopt(socket, level, option, &value, sizeof(value)) != 0) throw_errno(doing);
}

// A kernel that lacks it, or a system that does not allow it, keeps its own.
void choose_congestion_control(int socket, std::string_view name) {
  static_cast<void>(::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name.data(),
                                 static_cast<socklen_t>(name.size())));
}

// What a new socket has; empty where that cannot be told.
std::string read_congestion_control() {
  char name[kLongestName] = {};
  socklen_t size = sizeof(name);
  UniqueFd fresh(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::getsockopt(fresh.get(), IPPROTO_TCP, TCP_CONGESTION, name, &size) != 0) return {};
  return {name, ::strnlen(name, sizeof(name))};
}

// From the beginning: whoever begins with bbr is paced for as long as it lives, also under another
// (SK_PACING_NEEDED in net/core/sock.c is never taken back).
void begin_with_cubic(int socket) { choose_congestion_control(socket, "cubic"); }

// Nothing was sent yet, so that what is known is the handshake's round trip.
bool is_near(int socket) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  return ::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_rtt != 0 &&
         info.tcpi_rtt < std::chrono::microseconds(kNear).count();
}

}  // namespace

std::string SocketAddress::text() const {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getnameinfo(as_sockaddr(*this), size, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "an unknown address";
  }
  return storage.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, port)
                                       : fmt::format("{}:{}", host, port);
}

std::vector<SocketAddress> resolve(const NodeAddress& node) {
  int error = 0;
  AddressList list = look_up(node.host.c_str(), std::to_string(node.port), 0, error);
  if (!list) {
    throw Error(Code::kUnreachable, fmt::format("{}: {}", node.text(), ::gai_strerror(error)));
  }
  std::vector<SocketAddress> addresses;
  for (const addrinfo* at = list.get(); at != nullptr; at = at->ai_next) {
    addresses.push_back(to_address(at->ai_addr, at->ai_addrlen));
  }
  return addresses;
}

void set_up_tcp(int socket, TcpUse use) {
  constexpr const char* kDoing = "setting up a TCP connection";
  // Also where much is sent: the last of it would wait for the other end's delayed acknowledgement.
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1, kDoing);
  if (!is_near(socket)) choose_congestion_control(socket, read_congestion_control());
  if (use != TcpUse::kControl) return;
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1, kDoing);
  set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, kKeepIdle, kDoing);
  set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, kKeepInterval, kDoing);
  set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, kKeepTries, kDoing);
}

void limit_rate(int socket, std::uint64_t bytes_a_second) {
  if (bytes_a_second == 0) return;
  if (::setsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, &bytes_a_second,
                   sizeof(bytes_a_second)) != 0) {
    throw_errno("limiting what a connection sends", Code::kUnsupported);
  }
}

TcpConnection connect_tcp(const std::vector<SocketAddress>& addresses, const std::string& name,
                          TcpUse use, Deadline deadline) {
  int error = EHOSTUNREACH;
  std::string last = name;
  for (const SocketAddress& address : addresses) {
    UniqueFd socket = make_socket(address);
    last = address.text();
    if (use == TcpUse::kBulk) begin_with_cubic(socket.get());
    error = try_connect(socket.get(), address, deadline);
    if (error != 0) continue;
    set_up_tcp(socket.get(), use);
    return {std::move(socket), address};
  }
  std::string where = last.starts_with(name) ? name : fmt::format("{} ({})", name, last);
  throw Error(Code::kUnreachable, fmt::format("connecting to {}", where), error);
}

TcpListener::Accepted TcpListener::try_accept() {
  Accepted accepted;
  accepted.peer.size = sizeof(accepted.peer.storage);
  accepted.socket.reset(::accept4(fd_.get(), reinterpret_cast<sockaddr*>(&accepted.peer.storage),
                                  &accepted.peer.size, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (accepted.socket) return accepted;
  switch (errno) {
    // accept(2): what is wrong with the one connection.
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
    case ENETDOWN:
    case EPROTO:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EPERM:
      return accepted;
    default:
      throw_errno("accepting a connection on " + address_.text());
  }
}

namespace {

AddressList look_up_own(std::string_view where) {
  Where parsed = parse_where(where);
  int error = 0;
  AddressList list = look_up(parsed.host.empty() ? nullptr : parsed.host.c_str(), parsed.port,
                             AI_PASSIVE | (parsed.host.empty() ? 0 : AI_NUMERICHOST), error);
  if (!list) refuse(where, ::gai_strerror(error));
  return list;
}

}  // namespace

void check_listen_address(std::string_view where) { look_up_own(where); }

TcpListener listen_tcp(std::string_view where) {
  AddressList list = look_up_own(where);
  // Where all addresses are meant that is one socket, of IPv6, which takes IPv4 as well.
  const addrinfo* chosen = list.get();
  for (const addrinfo* at = list.get(); at != nullptr; at = at->ai_next) {
    if (at->ai_family == AF_INET6) chosen = at;
  }
  TcpListener listener;
  listener.address_ = to_address(chosen->ai_addr, chosen->ai_addrlen);
  listener.fd_ = make_socket(listener.address_);
  std::string doing = fmt::format("listening on {}", where);
  begin_with_cubic(listener.fd());
  set_option(listener.fd(), SOL_SOCKET, SO_REUSEADDR, 1, doing.c_str());
  if (chosen->ai_family == AF_INET6) {
    set_option(listener.fd(), IPPROTO_IPV6, IPV6_V6ONLY, 0, doing.c_str());
  }
  if (::bind(listener.fd(), as_sockaddr(listener.address_), listener.address_.size) != 0 ||
      ::listen(listener.fd(), SOMAXCONN) != 0) {
    throw_errno(doing);
  }
  auto* bound = reinterpret_cast<sockaddr*>(&listener.address_.storage);
  if (::getsockname(listener.fd(), bound, &listener.address_.size) != 0) throw_errno(doing);
  return listener;
}

}  // namespace telefork::net
