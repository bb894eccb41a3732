// Descriptors across an AF_UNIX socket (SCM_RIGHTS). What arrives shares its open file description
// with what was sent: offset and status flags are the owner's too.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/unique_fd.h"
#include "net/deadline.h"

namespace telefork::net {

// SCM_MAX_FD of include/net/scm.h.
inline constexpr std::size_t kMaxPassedFds = 253;

// `bytes` must not be empty (a stream socket does not carry descriptors alone) and should be small:
// they go with one sendmsg, or the call throws.
void send_fds(int socket, std::span<const std::byte> bytes, std::span<const int> fds);

struct ReceivedFds {
  std::size_t bytes = 0;      // 0: the other end closed
  std::vector<UniqueFd> fds;  // CLOEXEC
};
// One message, waiting for it until the deadline (kLost, ETIMEDOUT). kCorrupt when more than
// `max_fds` came; none of them stays open then.
ReceivedFds receive_fds(int socket, std::span<std::byte> bytes, std::size_t max_fds,
                        Deadline deadline);

}  // namespace telefork::net
