#include "kernel/socket_options.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

namespace telefork::kernel {
namespace {

// Newer than some headers: include/uapi/linux/in6.h, udp.h.
constexpr int kIpv6MulticastAll = 29;
constexpr int kUdpGro = 104;

struct Known {
  int level;
  int name;
};

constexpr Known kKnown[] = {
    {SOL_SOCKET, SO_REUSEADDR},
    {SOL_SOCKET, SO_REUSEPORT},
    {SOL_SOCKET, SO_KEEPALIVE},
    {SOL_SOCKET, SO_BROADCAST},
    {SOL_SOCKET, SO_DONTROUTE},
    {SOL_SOCKET, SO_OOBINLINE},
    {SOL_SOCKET, SO_NO_CHECK},
    {SOL_SOCKET, SO_PRIORITY},
    {SOL_SOCKET, SO_LINGER},
    {SOL_SOCKET, SO_PASSCRED},
    {SOL_SOCKET, SO_PASSSEC},
    {SOL_SOCKET, SO_RCVLOWAT},
    {SOL_SOCKET, SO_RCVTIMEO},
    {SOL_SOCKET, SO_SNDTIMEO},
    {SOL_SOCKET, SO_SNDBUF},
    {SOL_SOCKET, SO_RCVBUF},
    {SOL_SOCKET, SO_TIMESTAMP},
    {SOL_SOCKET, SO_TIMESTAMPNS},
    {SOL_SOCKET, SO_MARK},
    {SOL_SOCKET, SO_RXQ_OVFL},
    {SOL_SOCKET, SO_PEEK_OFF},
    {SOL_SOCKET, SO_BUSY_POLL},
    {SOL_SOCKET, SO_ZEROCOPY},
    {SOL_SOCKET, SO_BINDTODEVICE},
    {IPPROTO_IP, IP_TOS},
    {IPPROTO_IP, IP_TTL},
    {IPPROTO_IP, IP_PKTINFO},
    {IPPROTO_IP, IP_RECVTOS},
    {IPPROTO_IP, IP_RECVTTL},
    {IPPROTO_IP, IP_RECVERR},
    {IPPROTO_IP, IP_RECVORIGDSTADDR},
    {IPPROTO_IP, IP_MTU_DISCOVER},
    {IPPROTO_IP, IP_FREEBIND},
    {IPPROTO_IP, IP_TRANSPARENT},
    {IPPROTO_IP, IP_MINTTL},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
    {IPPROTO_IP, IP_MULTICAST_TTL},
    {IPPROTO_IP, IP_MULTICAST_LOOP},
    {IPPROTO_IP, IP_MULTICAST_ALL},
    {IPPROTO_IPV6, IPV6_V6ONLY},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS},
    {IPPROTO_IPV6, IPV6_TCLASS},
    {IPPROTO_IPV6, IPV6_RECVTCLASS},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT},
    {IPPROTO_IPV6, IPV6_RECVERR},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER},
    {IPPROTO_IPV6, IPV6_FREEBIND},
    {IPPROTO_IPV6, IPV6_TRANSPARENT},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    {IPPROTO_IPV6, IPV6_MULTICAST_IF},
    {IPPROTO_IPV6, kIpv6MulticastAll},
    {IPPROTO_TCP, TCP_NODELAY},
    {IPPROTO_TCP, TCP_CORK},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT},
    {IPPROTO_TCP, TCP_KEEPIDLE},
    {IPPROTO_TCP, TCP_KEEPINTVL},
    {IPPROTO_TCP, TCP_KEEPCNT},
    {IPPROTO_TCP, TCP_SYNCNT},
    {IPPROTO_TCP, TCP_LINGER2},
    {IPPROTO_TCP, TCP_USER_TIMEOUT},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT},
    {IPPROTO_TCP, TCP_CONGESTION},
    {IPPROTO_TCP, TCP_FASTOPEN},
    {IPPROTO_UDP, UDP_SEGMENT},
    {IPPROTO_UDP, kUdpGro},
    {SOL_NETLINK, NETLINK_PKTINFO},
    {SOL_NETLINK, NETLINK_BROADCAST_ERROR},
    {SOL_NETLINK, NETLINK_NO_ENOBUFS},
    {SOL_NETLINK, NETLINK_LISTEN_ALL_NSID},
    {SOL_NETLINK, NETLINK_CAP_ACK},
    {SOL_NETLINK, NETLINK_EXT_ACK},
    {SOL_NETLINK, NETLINK_GET_STRICT_CHK},
};

int ask(const UniqueFd& socket, int name) {
  int value = 0;
  socklen_t size = sizeof(value);
  return ::getsockopt(socket.get(), SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

bool try_read(const UniqueFd& socket, int level, int name, std::vector<std::byte>& value) {
  value.resize(kMaxSocketOption);
  socklen_t size = kMaxSocketOption;
  if (::getsockopt(socket.get(), level, name, value.data(), &size) != 0) return false;
  value.resize(std::min<std::size_t>(size, kMaxSocketOption));
  return true;
}

// A level of another protocol's answers too, for some kinds, with what is not its own.
bool belongs(int level, int family, int protocol) {
  switch (level) {
    case IPPROTO_IP:
      return family == AF_INET || family == AF_INET6;
    case IPPROTO_IPV6:
      return family == AF_INET6;
    case IPPROTO_TCP:
    case IPPROTO_UDP:
      return (family == AF_INET || family == AF_INET6) && protocol == level;
    case SOL_NETLINK:
      return family == AF_NETLINK;
    default:
      return true;
  }
}

// The kernel doubles what it is told [socket(7)], and what is more than its maximum it takes from
// the privileged only.
bool try_set_buffer(const UniqueFd& socket, int name, int doubled) {
  const int size = doubled / 2;
  const int force = name == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;
  return ::setsockopt(socket.get(), SOL_SOCKET, force, &size, sizeof(size)) == 0 ||
         (::setsockopt(socket.get(), SOL_SOCKET, name, &size, sizeof(size)) == 0 &&
          ask(socket, name) == doubled);
}

}  // namespace

std::vector<SocketOption> read_socket_options(const UniqueFd& socket) {
  const int family = ask(socket, SO_DOMAIN);
  const int protocol = ask(socket, SO_PROTOCOL);
  std::vector<SocketOption> options;
  for (const Known& known : kKnown) {
    SocketOption option{known.level, known.name, {}};
    if (belongs(known.level, family, protocol) &&
        try_read(socket, known.level, known.name, option.value)) {
      options.push_back(std::move(option));
    }
  }
  return options;
}

bool try_set_socket_option(const UniqueFd& socket, const SocketOption& option) {
  auto known = std::find_if(std::begin(kKnown), std::end(kKnown), [&](const Known& one) {
    return one.level == option.level && one.name == option.name;
  });
  if (known == std::end(kKnown)) return errno = EINVAL, false;
  std::vector<std::byte> now;
  if (try_read(socket, option.level, option.name, now) && now == option.value) return true;
  const bool buffer =
      option.level == SOL_SOCKET && (option.name == SO_SNDBUF || option.name == SO_RCVBUF);
  int value = 0;
  if (buffer && option.value.size() == sizeof(value)) {
    std::memcpy(&value, option.value.data(), sizeof(value));
    return try_set_buffer(socket, option.name, value);
  }
  return ::setsockopt(socket.get(), option.level, option.name, option.value.data(),
                      static_cast<socklen_t>(option.value.size())) == 0;
}

}  // namespace telefork::kernel
