#include "base/unique_fd.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork {

void UniqueFd::reset(int fd) {
  // close(2) on Linux frees the number whatever it returns; there is nothing to try again.
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

UniqueFd UniqueFd::duplicate() const {
  int fd = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) throw_errno("duplicating a descriptor");
  return UniqueFd(fd);
}

UniqueFd open_file(const std::string& path, int flags, unsigned mode) {
  int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) throw_errno("opening " + path);
  return UniqueFd(fd);
}

UniqueFd open_file_at(const UniqueFd& directory, const std::string& path, int flags,
                      unsigned mode) {
  int fd = ::openat(directory.get(), path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) throw_errno("opening " + path);
  return UniqueFd(fd);
}

std::pair<UniqueFd, UniqueFd> make_pipe(int flags) {
  int fds[2];
  if (::pipe2(fds, flags | O_CLOEXEC) != 0) throw_errno("making a pipe");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::pair<UniqueFd, UniqueFd> make_socket_pair(int type) {
  int fds[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) throw_errno("making a socket pair");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace telefork
