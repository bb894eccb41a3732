// The options of a socket that move with it: setsockopt(2), socket(7), ip(7), ipv6(7), tcp(7),
// udp(7). One list, so that what is read at one end is what is set at the other.
//
// What a socket has as a new one would is not set again: that needs no privilege.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/unique_fd.h"

namespace telefork::kernel {

constexpr std::size_t kMaxSocketOption = 64;  // bytes of one

struct SocketOption {
  int level = 0;
  int name = 0;
  std::vector<std::byte> value;
};

// All that it has of the list.
std::vector<SocketOption> read_socket_options(const UniqueFd& socket);
// False: it did not take it, see errno. One that is not in the list is not set: EINVAL.
bool try_set_socket_option(const UniqueFd& socket, const SocketOption& option);

}  // namespace telefork::kernel
