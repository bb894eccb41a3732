#include "proxy/shared_fd.h"

#include <algorithm>
#include <cerrno>
#include <climits>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/error.h"
#include "net/stream.h"

namespace telefork::proxy {
namespace {

struct stat look_at(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_errno("looking at a stream");
  return status;
}

// Major number 5 (Documentation/admin-guide/devices.txt): /dev/tty would be the terminal of this
// process, not the user's; /dev/ptmx a new terminal; /dev/console another one as well.
constexpr unsigned kTtyAuxMajor = 5;

bool can_open_anew(int fd, const struct stat& status) {
  if (S_ISFIFO(status.st_mode)) return true;
  return S_ISCHR(status.st_mode) && major(status.st_rdev) != kTtyAuxMajor && ::isatty(fd) == 1;
}

// Empty where the file may not be opened by us: a pipe of another user, a terminal after su.
UniqueFd try_open_anew(int fd, SharedFd::Direction direction) {
  int mode = direction == SharedFd::Direction::kRead ? O_RDONLY : O_WRONLY;
  std::string path = fmt::format("/proc/self/fd/{}", fd);
  return UniqueFd(::open(path.c_str(), mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

bool is_ready(int fd, short events) {
  pollfd entry{fd, events, 0};
  return net::poll_until({&entry, 1}, net::Deadline::now()) > 0;
}

SharedFd::Result to_result(ssize_t count) {
  if (count >= 0) return {static_cast<std::size_t>(count), 0};
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return {};
  return {std::nullopt, errno};
}

}  // namespace

SharedFd::SharedFd(UniqueFd fd, Direction direction) : fd_(std::move(fd)), kind_(Kind::kPoll) {
  struct stat status = look_at(fd_.get());
  is_character_device_ = S_ISCHR(status.st_mode);
  if (S_ISSOCK(status.st_mode)) {
    kind_ = Kind::kSocket;
  } else if (S_ISREG(status.st_mode)) {
    kind_ = Kind::kFile;
  } else if (can_open_anew(fd_.get(), status)) {
    if (UniqueFd own = try_open_anew(fd_.get(), direction)) {
      fd_ = std::move(own);
      kind_ = Kind::kOwn;
    }
  }
}

SharedFd::Result SharedFd::try_read(std::span<std::byte> bytes) const {
  if (kind_ == Kind::kSocket) {
    return to_result(::recv(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT));
  }
  if (kind_ == Kind::kPoll && !is_ready(fd_.get(), POLLIN)) return {};
  return to_result(::read(fd_.get(), bytes.data(), bytes.size()));
}

SharedFd::Result SharedFd::try_write(std::span<const std::byte> bytes) const {
  if (kind_ == Kind::kSocket) {
    return to_result(::send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
  }
  if (kind_ == Kind::kPoll) {
    if (!is_ready(fd_.get(), POLLOUT)) return {};
    bytes = bytes.first(std::min<std::size_t>(bytes.size(), PIPE_BUF));
  }
  return to_result(::write(fd_.get(), bytes.data(), bytes.size()));
}

}  // namespace telefork::proxy
