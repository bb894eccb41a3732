#include "kernel/unix_diag.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#include "base/unique_fd.h"

namespace telefork::kernel {
namespace {

constexpr unsigned kListening = 10;  // TCP_LISTEN, include/net/tcp_states.h

struct Request {
  nlmsghdr header;
  unix_diag_req question;
};

bool send_request(const UniqueFd& netlink, std::uint32_t inode) {
  Request request{};
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.question.sdiag_family = AF_UNIX;
  request.question.udiag_states = ~0U;
  request.question.udiag_ino = inode;
  request.question.udiag_show =
      UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN | UDIAG_SHOW_VFS;
  request.question.udiag_cookie[0] = ~0U;  // whichever
  request.question.udiag_cookie[1] = ~0U;
  return ::send(netlink.get(), &request, sizeof(request), 0) == sizeof(request);
}

template <class T>
bool read_object(std::span<const std::byte> bytes, T& object) {
  if (bytes.size() < sizeof(T)) return false;
  std::memcpy(&object, bytes.data(), sizeof(T));
  return true;
}

void take_attribute(unsigned type, std::span<const std::byte> value, UnixSocketState& state) {
  if (type == UNIX_DIAG_PEER) state.has_peer = read_object(value, state.peer);
  if (type == UNIX_DIAG_ICONS) {
    std::uint32_t inode = 0;
    for (; read_object(value, inode); value = value.subspan(sizeof(inode))) {
      state.waiting.push_back(inode);
    }
  }
  std::uint8_t shutdown = 0;
  if (type == UNIX_DIAG_SHUTDOWN && read_object(value, shutdown)) state.shutdown = shutdown;
  unix_diag_vfs file{};
  if (type == UNIX_DIAG_VFS && read_object(value, file)) state.file = file.udiag_vfs_ino;
  unix_diag_rqlen queues{};
  if (type == UNIX_DIAG_RQLEN && state.listening && read_object(value, queues)) {
    state.backlog = queues.udiag_wqueue;
  }
}

std::optional<UnixSocketState> read_answer(std::span<const std::byte> message) {
  nlmsghdr header;
  if (!read_object(message, header) || header.nlmsg_type != SOCK_DIAG_BY_FAMILY ||
      header.nlmsg_len > message.size() ||
      header.nlmsg_len < NLMSG_HDRLEN + sizeof(unix_diag_msg)) {
    return std::nullopt;
  }
  UnixSocketState state;
  unix_diag_msg head{};
  read_object(message.subspan(NLMSG_HDRLEN), head);
  state.listening = head.udiag_state == kListening;
  auto rest = message.first(header.nlmsg_len).subspan(NLMSG_HDRLEN + sizeof(unix_diag_msg));
  nlattr attribute;
  while (read_object(rest, attribute)) {
    if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > rest.size()) return std::nullopt;
    take_attribute(attribute.nla_type,
                   rest.first(attribute.nla_len).subspan(static_cast<std::size_t>(NLA_HDRLEN)),
                   state);
    const std::size_t step = NLA_ALIGN(attribute.nla_len);
    rest = rest.subspan(std::min(step, rest.size()));
  }
  return state;
}

}  // namespace

std::optional<UnixSocketState> try_ask_unix_socket(std::uint32_t inode) {
  UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink || !send_request(netlink, inode)) return std::nullopt;
  // The longest queue (net.core.somaxconn) may be longer: then it tells nothing.
  alignas(nlmsghdr) std::byte answer[32 * 1024];
  const ssize_t count = ::recv(netlink.get(), answer, sizeof(answer), 0);
  if (count < 0) return std::nullopt;
  return read_answer(std::span(answer).first(static_cast<std::size_t>(count)));
}

}  // namespace telefork::kernel
