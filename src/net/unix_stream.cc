#include "net/unix_stream.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::net {
namespace {

sockaddr_un to_sockaddr(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    throw Error(Code::kUsage, fmt::format("unix:{}: a socket's path has 1 to {} bytes", path,
                                          sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

UniqueFd make_socket(int flags) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd) throw_errno("making a unix socket");
  return fd;
}

// 0, or the errno. connect(2) on AF_UNIX waits while the listener's backlog is full.
int try_connect(const UniqueFd& fd, const std::string& path) {
  sockaddr_un address = to_sockaddr(path);
  while (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

std::string directory_of(const std::string& path) {
  std::string directory = std::filesystem::path(path).parent_path();
  return directory.empty() ? "." : directory;
}

// Whoever can write to the directory can put another socket in our socket's place.
UniqueFd open_socket_directory(const std::string& directory) {
  UniqueFd fd = open_file(directory, O_RDONLY | O_DIRECTORY);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_errno("looking at " + directory);
  bool ours = status.st_uid == ::geteuid() || status.st_uid == 0;
  bool closed = (status.st_mode & 022) == 0 || (status.st_mode & S_ISVTX) != 0;
  if (!ours || !closed) {
    throw Error(Code::kRefused,
                fmt::format("{}: the directory of the socket {}", directory,
                            ours ? "can be written by others" : "belongs to another user"));
  }
  return fd;
}

// Of two telepads that start at once, one has to see the other's socket.
void lock_directory(const UniqueFd& directory, const std::string& path) {
  Deadline deadline = Deadline::in(std::chrono::seconds(2));
  while (::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) throw_errno("locking the directory of " + path);
    if (deadline.passed())
      throw Error(Code::kRefused, path + ": another telepad is starting there");
    poll_until({}, Deadline::in(std::chrono::milliseconds(5)));
  }
}

void remove_stale(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return;
  if (!S_ISSOCK(status.st_mode)) {
    throw Error(Code::kRefused, path + ": is there already, and is no socket");
  }
  int error = try_connect(make_socket(SOCK_NONBLOCK), path);
  // EAGAIN: alive, and its backlog is full.
  if (error == 0 || error == EAGAIN) {
    throw Error(Code::kRefused, path + ": another telepad listens there");
  }
  if (error != ECONNREFUSED) throw_errno("trying the socket " + path, error);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw_errno("removing the stale " + path);
}

}  // namespace

std::unique_ptr<FdStream> connect_unix(const std::string& path) {
  UniqueFd fd = make_socket(0);
  int error = try_connect(fd, path);
  if (error == EACCES || error == EPERM) {
    throw_errno(fmt::format("connecting to unix:{}", path), error, Code::kUnauthorised);
  }
  if (error != 0)
    throw_errno(fmt::format("connecting to unix:{}", path), error, Code::kUnreachable);
  return std::make_unique<FdStream>(std::move(fd), "unix:" + path);
}

PeerCredentials peer_credentials(int fd) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    throw_errno("asking who the peer is");
  }
  return {credentials.pid, credentials.uid, credentials.gid};
}

std::vector<gid_t> peer_groups(int fd) {
  std::vector<gid_t> groups(32);
  for (;;) {
    auto size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    int result = ::getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
    if (result != 0 && errno != ERANGE) throw_errno("asking for the groups of the peer");
    groups.resize(size / sizeof(gid_t));
    if (result == 0) return groups;
  }
}

UnixListener::UnixListener(UniqueFd fd, std::string path)
    : fd_(std::move(fd)), path_(std::move(path)), maker_(::getpid()) {
  struct stat status {};
  if (::lstat(path_.c_str(), &status) != 0) throw_errno("looking at " + path_);
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

UnixListener::~UnixListener() {
  if (!fd_ || maker_ != ::getpid()) return;
  struct stat status {};
  if (::lstat(path_.c_str(), &status) != 0) return;
  if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
}

UniqueFd UnixListener::try_accept() {
  UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (fd || errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return fd;
  throw_errno("accepting a connection on " + path_);
}

void make_socket_directory(const std::string& path, unsigned socket_mode) {
  std::string directory = directory_of(path);
  unsigned mode = (socket_mode & 077) != 0 ? 0755 : 0700;
  if (::mkdir(directory.c_str(), mode) == 0) {
    // The umask may have taken bits away.
    if (::chmod(directory.c_str(), mode) != 0) throw_errno("setting the mode of " + directory);
  } else if (errno != EEXIST) {
    throw_errno("making the directory " + directory);
  }
}

UnixListener listen_unix(const std::string& path, unsigned mode) {
  sockaddr_un address = to_sockaddr(path);
  UniqueFd directory = open_socket_directory(directory_of(path));
  lock_directory(directory, path);
  remove_stale(path);
  UniqueFd fd = make_socket(SOCK_NONBLOCK);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    throw_errno("binding the socket " + path);
  }
  UnixListener listener(std::move(fd), path);
  // Nobody can connect before listen(2), so that the mode is in force in time.
  if (::chmod(path.c_str(), mode) != 0) throw_errno("setting the mode of " + path);
  if (::listen(listener.fd(), SOMAXCONN) != 0) throw_errno("listening on " + path);
  return listener;
}

}  // namespace telefork::net
