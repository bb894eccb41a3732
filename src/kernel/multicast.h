// Whether a socket is a member of multicast groups, which getsockopt(2) tells only of a group that
// one names: all that somebody on this machine is a member of are tried, /proc/net/igmp and igmp6.
//
// The parsers are pure, and refuse what is not of its format (kCorrupt); see procfs.h.
#pragma once

#include <string_view>
#include <vector>

#include <sys/socket.h>

#include "base/unique_fd.h"

namespace telefork::kernel {

struct MulticastGroup {
  unsigned interface = 0;
  sockaddr_storage address{};
};

std::vector<MulticastGroup> parse_igmp(std::string_view text);
std::vector<MulticastGroup> parse_igmp6(std::string_view text);
// Of the calling process's network namespace. Of none where the kernel has no multicast.
bool has_multicast_groups(const UniqueFd& socket);

}  // namespace telefork::kernel
