// What a socket of unix has not read, looked at by MSG_PEEK, which leaves it where it is.
//
//     for (UnreadMessage& message : read_unread(socket, "socket:[4711]", SOCK_STREAM, shutdown))
//
// Descriptors that came along are this process's too as long as the message is kept. Those of a
// stream are delivered with the first byte that they were sent with: no message goes on behind
// that.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace telefork::capture {

struct UnreadMessage {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> sent_along;
};

// Throws kRefused where anything but descriptors came along. `shutdown` is as of SocketObject.
std::vector<UnreadMessage> read_unread(const UniqueFd& socket, const std::string& name, int type,
                                       unsigned shutdown);

}  // namespace telefork::capture
