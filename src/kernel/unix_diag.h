// What the kernel knows of a unix socket and getsockopt(2) does not tell: who its peer is, in which
// directions it is shut down, who waits for it, and where its name is [sock_diag(7)].
//
// Needs no privilege; of the calling process's network namespace. A kernel may have been built
// without (CONFIG_UNIX_DIAG), or have it as a module that it loads by itself.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace telefork::kernel {

struct UnixSocketState {
  bool has_peer = false;   // or had one: it may have been closed
  std::uint32_t peer = 0;  // its inode; 0: closed, or none
  unsigned shutdown = 0;   // 1: nothing more is received, 2: nothing sent
  bool listening = false;
  // Of one that listens: the inodes of who has connected and was not accepted, in their order; 0:
  // it has closed its end. Such a one has a peer whose inode is 0.
  std::vector<std::uint32_t> waiting;
  std::uint32_t backlog = 0;  // likewise: of how many
  std::uint32_t file = 0;     // the inode of its name; 0: that is none in a file system
};

// Empty: there is none of that inode here, or the kernel does not answer.
std::optional<UnixSocketState> try_ask_unix_socket(std::uint32_t inode);

}  // namespace telefork::kernel
