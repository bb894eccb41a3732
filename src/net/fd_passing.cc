#include "net/fd_passing.h"

#include <cerrno>
#include <cstring>

#include <sys/socket.h>
#include <sys/uio.h>

#include "base/error.h"
#include "net/stream.h"

namespace telefork::net {
namespace {

std::vector<UniqueFd> take_fds(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

ssize_t receive_waiting(int socket, msghdr& message, Deadline deadline) {
  while (true) {
    ssize_t count = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (count >= 0) return count;
    if (errno != EAGAIN && errno != EINTR) throw_errno("receiving descriptors");
    pollfd entry{socket, POLLIN, 0};
    if (poll_until({&entry, 1}, deadline) == 0) {
      throw Error(Code::kLost, "receiving descriptors", ETIMEDOUT);
    }
  }
}

}  // namespace

void send_fds(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  TELEFORK_ASSERT(!bytes.empty() && fds.size() <= kMaxPassedFds);
  std::vector<std::byte> control(CMSG_SPACE(fds.size_bytes()));
  iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    TELEFORK_ASSERT(part != nullptr);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) throw_errno("sending descriptors");
  if (static_cast<std::size_t>(sent) != bytes.size()) {
    throw Error(Code::kLost, "sending descriptors: the socket took only a part");
  }
}

ReceivedFds receive_fds(int socket, std::span<std::byte> bytes, std::size_t max_fds,
                        Deadline deadline) {
  TELEFORK_ASSERT(max_fds <= kMaxPassedFds);
  std::vector<std::byte> control(CMSG_SPACE(max_fds * sizeof(int)));
  iovec piece{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ReceivedFds received;
  received.bytes = static_cast<std::size_t>(receive_waiting(socket, message, deadline));
  received.fds = take_fds(message);
  // MSG_CTRUNC: the kernel dropped those that had no room. It may also hand over one more than
  // asked for, where CMSG_SPACE rounded up.
  if ((message.msg_flags & MSG_CTRUNC) != 0 || received.fds.size() > max_fds) {
    throw Error(Code::kCorrupt, "receiving descriptors: more came than expected");
  }
  return received;
}

}  // namespace telefork::net
