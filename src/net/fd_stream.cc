#include "net/fd_stream.h"

#include <cerrno>
#include <climits>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::net {
namespace {

bool is_ready(int fd, short events) {
  pollfd entry{fd, events, 0};
  return poll_until({&entry, 1}, Deadline::now()) > 0;
}

bool would_wait(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

iovec to_iovec(Stream::ConstBytes bytes) {
  // sendmsg(2) and writev(2) do not write through it; the struct serves both directions.
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

ssize_t write_to_socket(int fd, Stream::ConstBytes head, Stream::ConstBytes body) {
  iovec pieces[] = {to_iovec(head), to_iovec(body)};
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = 2;
  return ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

ssize_t write_after_poll(int fd, Stream::ConstBytes head, Stream::ConstBytes body) {
  if (!is_ready(fd, POLLOUT)) {
    errno = EAGAIN;
    return -1;
  }
  head = head.first(std::min<std::size_t>(head.size(), PIPE_BUF));
  body = body.first(std::min<std::size_t>(body.size(), PIPE_BUF - head.size()));
  iovec pieces[] = {to_iovec(head), to_iovec(body)};
  return ::writev(fd, pieces, 2);
}

}  // namespace

bool is_socket(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_errno("looking at a descriptor");
  return S_ISSOCK(status.st_mode);
}

std::optional<std::size_t> try_read_fd(int fd, Stream::Bytes bytes) {
  bool socket = is_socket(fd);
  if (!socket && !is_ready(fd, POLLIN)) return std::nullopt;
  ssize_t count = socket ? ::recv(fd, bytes.data(), bytes.size(), MSG_DONTWAIT)
                         : ::read(fd, bytes.data(), bytes.size());
  if (count >= 0) return static_cast<std::size_t>(count);
  if (would_wait(errno)) return std::nullopt;
  throw_errno("reading");
}

FdStream::FdStream(UniqueFd fd, std::string name)
    : in_(std::move(fd)),
      name_(std::move(name)),
      ends_(Ends::kOne),
      socket_in_(is_socket(in_.get())),
      socket_out_(socket_in_) {}

FdStream::FdStream(UniqueFd in, UniqueFd out, std::string name)
    : in_(std::move(in)),
      out_(std::move(out)),
      name_(std::move(name)),
      ends_(Ends::kTwo),
      socket_in_(is_socket(in_.get())),
      socket_out_(is_socket(out_.get())) {}

std::optional<std::size_t> FdStream::try_read(Bytes bytes) {
  if (!socket_in_ && !is_ready(in_.get(), POLLIN)) return std::nullopt;
  ssize_t count = socket_in_ ? ::recv(in_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT)
                             : ::read(in_.get(), bytes.data(), bytes.size());
  if (count >= 0) return static_cast<std::size_t>(count);
  if (would_wait(errno)) return std::nullopt;
  throw_errno(name_ + ": reading");
}

std::optional<std::size_t> FdStream::try_write(ConstBytes head, ConstBytes body) {
  if (head.empty() && body.empty()) return 0;
  if (ends_ == Ends::kClosed) throw_closed();
  ssize_t count =
      socket_out_ ? write_to_socket(out(), head, body) : write_after_poll(out(), head, body);
  if (count >= 0) return static_cast<std::size_t>(count);
  if (would_wait(errno)) return std::nullopt;
  if (errno == EPIPE) throw_closed();
  throw_errno(name_ + ": writing");
}

bool FdStream::can_splice() const {
  int family = 0;
  socklen_t size = sizeof(family);
  return socket_out_ && ::getsockopt(out(), SOL_SOCKET, SO_DOMAIN, &family, &size) == 0 &&
         family == AF_UNIX;
}

// splice(2) cannot be told not to wait for a socket. One that poll(2) calls ready has three
// quarters of its room left (unix_writable() in net/unix/af_unix.c), more than twice such a part
// where nobody has asked for less.
std::optional<std::size_t> FdStream::try_splice(int pipe, std::size_t size) {
  constexpr std::size_t kPart = 64 * 1024;
  if (ends_ == Ends::kClosed) throw_closed();
  pollfd entries[] = {{pipe, POLLIN, 0}, {out(), POLLOUT, 0}};
  poll_until(entries, Deadline::now());
  if (entries[0].revents == 0 || entries[1].revents == 0) return std::nullopt;
  const ssize_t count = ::splice(pipe, nullptr, out(), nullptr, std::min(size, kPart),
                                 SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (count >= 0) return static_cast<std::size_t>(count);
  if (would_wait(errno)) return std::nullopt;
  if (errno == EPIPE) throw_closed();
  throw_errno(name_ + ": writing");
}

void FdStream::shutdown_write() {
  // ENOTCONN: the other end was faster. A one-ended pipe cannot be shut; its owner closes it.
  if (socket_out_) {
    ::shutdown(out(), SHUT_WR);
  } else if (ends_ == Ends::kTwo) {
    out_.reset();
    ends_ = Ends::kClosed;
  }
}

void widen_send_buffer(int fd) {
  constexpr int kRoom = 2 * 1024 * 1024;
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kRoom, sizeof(kRoom)) == 0) return;
  static_cast<void>(::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kRoom, sizeof(kRoom)));
}

std::pair<std::unique_ptr<FdStream>, std::unique_ptr<FdStream>> make_stream_pair() {
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  return {std::make_unique<FdStream>(std::move(one), "one end"),
          std::make_unique<FdStream>(std::move(other), "other end")};
}

}  // namespace telefork::net
