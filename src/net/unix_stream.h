// Streams over AF_UNIX sockets: the address `unix:PATH`, and the socket on which a telepad listens
// for this machine's users. The kernel says who is at the other end (SO_PEERCRED), so that no key
// is needed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "net/fd_stream.h"

namespace telefork::net {

// kUnreachable naming the path when nobody listens there, kUnauthorised when we may not connect.
std::unique_ptr<FdStream> connect_unix(const std::string& path);

struct PeerCredentials {
  pid_t pid = 0;  // 0 when the peer lives in a pid namespace that we do not see
  uid_t uid = 0;
  gid_t gid = 0;
};
// As they were when the peer connected, or made the socket pair.
PeerCredentials peer_credentials(int fd);
// The supplementary groups that the peer had then (SO_PEERGROUPS).
std::vector<gid_t> peer_groups(int fd);

// A listening socket and its name, which goes away with it. A fork of the owner may drop its copy:
// only the process that made the name removes it, and only while it is still its own.
class UnixListener {
 public:
  UnixListener(UnixListener&& other) noexcept = default;
  UnixListener& operator=(UnixListener&& other) = delete;
  ~UnixListener();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  // The next connection; empty when none waits or the one that did is gone again.
  UniqueFd try_accept();

 private:
  friend UnixListener listen_unix(const std::string& path, unsigned mode);
  UnixListener(UniqueFd fd, std::string path);

  UniqueFd fd_;
  std::string path_;
  pid_t maker_;
  dev_t device_;
  ino_t inode_;
};

// Makes the directory of the socket `path` when it is missing: 0700 for a socket of mode 0600 or
// less, else 0755. The parents must exist.
void make_socket_directory(const std::string& path, unsigned mode);

// Removes a socket that a dead telepad left, and binds with `mode`. Refused when somebody listens
// there already, or when the directory belongs to another plain user.
UnixListener listen_unix(const std::string& path, unsigned mode);

}  // namespace telefork::net
