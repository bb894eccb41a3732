// Which sockets have everything that they are made of within the process.
#include <linux/netlink.h>
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <iterator>

#include <fmt/format.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/error.h"
#include "capture/survey_moving.h"
#include "kernel/multicast.h"
#include "kernel/pidfd.h"
#include "kernel/unix_diag.h"

namespace telefork::capture {
namespace {

using Kind = image::schema::FileDescription::Kind;

int ask(const UniqueFd& socket, int name) {
  int value = 0;
  socklen_t size = sizeof(value);
  if (::getsockopt(socket.get(), SOL_SOCKET, name, &value, &size) != 0) {
    throw_errno("asking a socket for an option");
  }
  return value;
}

bool has_unread(const UniqueFd& socket) {
  pollfd poll = {socket.get(), POLLIN, 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & POLLIN) != 0;
}

// One of the kernel's newer kind cannot even be asked for: EACCES.
bool has_filter(const UniqueFd& socket) {
  socklen_t count = 0;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_GET_FILTER, nullptr, &count) != 0 || count != 0;
}

std::vector<std::byte> read_address(const UniqueFd& socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw_errno("asking a socket for its address");
  }
  std::vector<std::byte> bytes(std::min<std::size_t>(size, sizeof(address)));
  std::memcpy(bytes.data(), &address, bytes.size());
  return bytes;
}

bool has_peer(const UniqueFd& socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  return ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0;
}

// Port 0 of a socket that has none.
bool is_bound(std::span<const std::byte> address) {
  sockaddr_in6 either{};
  std::memcpy(&either, address.data(), std::min(address.size(), sizeof(either)));
  return either.sin6_port != 0;  // where sockaddr_in has it too
}

const Obstacle kNoSocket{Reason::kSocket, ""};

// What a unix socket is bound to, or nothing.
std::vector<std::byte> read_name(const UniqueFd& socket) {
  std::vector<std::byte> address = read_address(socket);
  if (address.size() <= sizeof(sa_family_t)) address.clear();
  return address;
}

// What it has sent, as far as it was not read: unix_outq_len in net/unix/af_unix.c.
bool has_unread_there(const UniqueFd& socket) {
  int bytes = 0;
  return ::ioctl(socket.get(), SIOCOUTQ, &bytes) == 0 && bytes != 0;
}

// The permissions of a name in a file system. Empty: it is another socket's, or nobody's.
std::optional<unsigned> find_mode(const std::string& path, std::uint32_t inode) {
  struct stat stat;
  if (::lstat(path.c_str(), &stat) != 0 || !S_ISSOCK(stat.st_mode) ||
      static_cast<std::uint32_t>(stat.st_ino) != inode) {
    return std::nullopt;
  }
  return stat.st_mode & 07777;
}

// As others find it. The kernel has the name as whoever bound it gave it, most likely with the root
// directory that the process has, or with the machine's before it had that. False: it is another
// socket's by now, or nobody's, or depends on where whoever bound it was then.
bool find_name(pid_t pid, std::uint32_t inode, SocketObject& object) {
  const auto bytes = std::span(object.address).subspan(offsetof(sockaddr_un, sun_path));
  std::string path(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  path = path.substr(0, path.find('\0'));
  if (!path.starts_with('/')) return false;
  const std::string root = kernel::read_root_link(pid);
  std::optional<unsigned> mode = find_mode(kernel::root_path(pid) + path, inode);
  if (mode && root != "/") object.root = root;
  if (!mode && root != "/") mode = find_mode(kernel::base_path(pid) + path, inode);
  object.mode = mode.value_or(0);
  return mode.has_value();
}

// One with a name, that is connected with nobody, or was accepted: settle_sockets().
std::optional<Obstacle> look_at_named(const Survey& survey, const UniqueFd& socket,
                                      const kernel::UnixSocketState& state, SocketObject& object) {
  if (state.has_peer) return state.peer != 0 ? std::nullopt : std::optional(kNoSocket);
  if (!state.listening && has_unread(socket)) return Obstacle{Reason::kUnread, ""};
  // They stay with the one that it is a copy of.
  if (survey.original_stays && !state.waiting.empty()) return Obstacle{Reason::kUnread, ""};
  object.waiting_inodes = state.waiting;
  if (state.file == 0 || find_name(survey.pid, state.file, object)) return std::nullopt;
  return kNoSocket;
}

// A socket of socketpair(2), or one that is not connected.
std::optional<Obstacle> look_at_unix(const Survey& survey, const UniqueFd& socket,
                                     const OpenFile& open, SocketObject& object) {
  object.address = read_name(socket);
  auto state = kernel::try_ask_unix_socket(static_cast<std::uint32_t>(open.stat.st_ino));
  if (!state) return kNoSocket;
  object.paired = state->has_peer;
  object.peer = state->peer;
  object.shutdown = state->shutdown;
  object.listening = state->listening;
  object.backlog = state->backlog;
  object.file = state->file;
  object.peer_has_unread = has_unread_there(socket);
  if (!object.address.empty()) {
    auto obstacle = look_at_named(survey, socket, *state, object);
    if (obstacle || !state->has_peer) return obstacle;
  }
  if (object.listening) return kNoSocket;  // nobody can reach it
  if (ask(socket, SO_PASSCRED) != 0 && has_unread(socket)) return Obstacle{Reason::kSentAlong, ""};
  object.carries = kernel::parse_sent_descriptors(open.info) != 0;
  return std::nullopt;
}

std::optional<Obstacle> look_at_udp(const UniqueFd& socket) {
  if (has_peer(socket) || kernel::has_multicast_groups(socket)) return kNoSocket;
  if (has_unread(socket)) return Obstacle{Reason::kUnread, ""};
  return std::nullopt;
}

// tcp_info with what the C library's header lacks (include/uapi/linux/tcp.h).
struct TcpInfo {
  tcp_info known;
  std::byte newer[256];
  // How many segments it has sent, since Linux 4.2.
  std::uint32_t segments_out() const {
    constexpr std::size_t kOffset = 136;
    std::uint32_t count = 0;
    std::memcpy(&count, reinterpret_cast<const std::byte*>(this) + kOffset, sizeof(count));
    return count;
  }
};

// One that listens, or was never connected.
std::optional<Obstacle> look_at_tcp(const UniqueFd& socket, SocketObject& object) {
  TcpInfo all{};
  const tcp_info& info = all.known;
  socklen_t size = sizeof(all);
  if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &all, &size) != 0) return kNoSocket;
  object.listening = info.tcpi_state == TCP_LISTEN;
  if (object.listening) {
    // What these say of one that listens: tcp_get_info in net/ipv4/tcp.c.
    object.backlog = info.tcpi_sacked;
    if (info.tcpi_unacked != 0) return Obstacle{Reason::kUnread, ""};
    return std::nullopt;
  }
  if (info.tcpi_state != TCP_CLOSE || all.segments_out() != 0) return kNoSocket;
  return std::nullopt;
}

std::optional<Obstacle> look_at_internet(const UniqueFd& socket, SocketObject& object) {
  if (has_filter(socket)) return kNoSocket;
  const bool tcp = object.type == SOCK_STREAM && object.protocol == IPPROTO_TCP;
  const bool udp = object.type == SOCK_DGRAM && object.protocol == IPPROTO_UDP;
  if (!tcp && !udp) return kNoSocket;
  object.address = read_address(socket);
  if (!is_bound(object.address)) object.address.clear();
  return tcp ? look_at_tcp(socket, object) : look_at_udp(socket);
}

// Whether it is in groups, whose messages it would miss meanwhile, or has one whom it talks to.
bool is_joined_or_connected(const UniqueFd& socket) {
  std::uint32_t groups[64] = {};
  socklen_t size = sizeof(groups);
  if (::getsockopt(socket.get(), SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &size) != 0 ||
      size > sizeof(groups)) {
    return true;
  }
  sockaddr_nl peer{};
  size = sizeof(peer);
  return std::any_of(std::begin(groups), std::end(groups), [](auto bits) { return bits != 0; }) ||
         ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&peer), &size) != 0 ||
         peer.nl_pid != 0 || peer.nl_groups != 0;
}

std::optional<Obstacle> look_at_netlink(const UniqueFd& socket, SocketObject& object) {
  if (object.protocol != NETLINK_ROUTE || has_filter(socket) || is_joined_or_connected(socket)) {
    return kNoSocket;
  }
  // An answer in pieces is made as it is read: where nothing waits none is on its way.
  if (has_unread(socket)) return Obstacle{Reason::kUnread, ""};
  object.address = read_address(socket);
  sockaddr_nl own{};
  std::memcpy(&own, object.address.data(), std::min(object.address.size(), sizeof(own)));
  if (own.nl_pid == 0) object.address.clear();
  return std::nullopt;
}

}  // namespace

Sorted MovingDescriptors::sort_socket(const OpenFile& open, Description description) {
  UniqueFd socket = kernel::take_fd(survey_.pid, open.fd);
  if (!socket) return kNoSocket;  // it has just been closed
  SocketObject object;
  object.link = open.link;
  object.family = ask(socket, SO_DOMAIN);
  object.type = ask(socket, SO_TYPE);
  object.protocol = ask(socket, SO_PROTOCOL);
  std::optional<Obstacle> obstacle = kNoSocket;
  if (object.family == AF_UNIX) obstacle = look_at_unix(survey_, socket, open, object);
  if (object.family == AF_INET || object.family == AF_INET6) {
    obstacle = look_at_internet(socket, object);
  }
  if (object.family == AF_NETLINK) obstacle = look_at_netlink(socket, object);
  if (obstacle) return *obstacle;
  if (object.peer != 0 && !has_own_peer(open) && !may_have_peer_in_flight(object)) return kNoSocket;
  if (survey_.original_stays && !object.address.empty()) return Obstacle{Reason::kKept, ""};
  if (pid_t other = holder_of(open)) return Obstacle{Reason::kHolder, std::to_string(other)};
  description.kind = Kind::SOCKET;
  description.object = survey_.sockets.size();
  survey_.sockets.push_back(std::move(object));
  return description;
}

// Nobody has the other end open: it may be on its way in a socket. settle_sockets() looks whether
// it has been found.
bool MovingDescriptors::may_have_peer_in_flight(const SocketObject& object) {
  const std::string peer = fmt::format("socket:[{}]", object.peer);
  return !survey_.original_stays && !survey_.outside.has_unnamed(peer);
}

// The other end of a unix socket, and nobody else has it.
bool MovingDescriptors::has_own_peer(const OpenFile& open) {
  auto state = kernel::try_ask_unix_socket(static_cast<std::uint32_t>(open.stat.st_ino));
  if (!state || state->peer == 0) return false;
  const std::string wanted = fmt::format("socket:[{}]", state->peer);
  return !survey_.outside.places(wanted).empty();
}

// What was accepted has the name of what listened, which is to be there still: then it gets that
// one's root too.
bool MovingDescriptors::can_be_connected_again(SocketObject& one, SocketObject& other) {
  if (one.address.empty() && other.address.empty()) return true;
  if (!one.address.empty() && !other.address.empty()) return false;
  SocketObject& accepted = one.address.empty() ? other : one;
  const auto listener =
      std::find_if(survey_.sockets.begin(), survey_.sockets.end(), [&](const SocketObject& next) {
        return next.listening && next.type == accepted.type && next.address == accepted.address &&
               next.file == accepted.file;
      });
  if (listener == survey_.sockets.end()) return false;
  accepted.root = listener->root;
  return true;
}

SocketObject* MovingDescriptors::find_socket(std::uint32_t inode) {
  const std::string wanted = fmt::format("socket:[{}]", inode);
  auto found = std::find_if(survey_.sockets.begin(), survey_.sockets.end(),
                            [&](const SocketObject& one) { return one.link == wanted; });
  return found == survey_.sockets.end() ? nullptr : &*found;
}

// Whoever has connected and was not accepted goes along, and connects once more. What it has sent
// already nobody can look at, for as long as it is not accepted.
void MovingDescriptors::settle_waiting(const Description& listener) {
  SocketObject& object = survey_.sockets[listener.object];
  for (const std::uint32_t inode : object.waiting_inodes) {
    const SocketObject* client = find_socket(inode);
    if (client == nullptr || client->peer_has_unread) {
      survey_.refusals.push_back(
          refuse(fmt::format("fd {} -> {}", listener.fd, listener.name), Reason::kUnread));
      return;
    }
    object.waiting.push_back(static_cast<std::size_t>(client - survey_.sockets.data()));
  }
}

// A pair is two that know each other. One whose other cannot move for another reason stays too.
void MovingDescriptors::settle_sockets() {
  const bool has_unseen =
      std::any_of(survey_.sockets.begin(), survey_.sockets.end(),
                  [](const SocketObject& one) { return one.carries && one.sent_along.empty(); });
  for (Description& description : survey_.descriptions) {
    if (description.kind != Kind::SOCKET) continue;
    SocketObject& object = survey_.sockets[description.object];
    if (object.listening && object.family == AF_UNIX) settle_waiting(description);
    if (object.peer == 0) continue;
    // Of one that runs what is on its way was not looked at.
    const bool may_be_on_its_way =
        has_unseen && may_have_peer_in_flight(object) && find_socket(object.peer) == nullptr;
    if (may_be_on_its_way) continue;
    SocketObject* peer = find_socket(object.peer);
    if (peer != nullptr && fmt::format("socket:[{}]", peer->peer) == object.link &&
        can_be_connected_again(object, *peer)) {
      object.peer_index = static_cast<std::size_t>(peer - survey_.sockets.data());
      continue;
    }
    survey_.refusals.push_back(
        refuse(fmt::format("fd {} -> {}", description.fd, description.name), Reason::kSocket));
  }
}

}  // namespace telefork::capture
