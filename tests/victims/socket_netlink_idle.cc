// Netlink sockets that wait for nothing: one that has asked before, with options, and one that has
// not.
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "victim.h"

static void ask_for_links(int fd, unsigned sequence) {
  struct {
    nlmsghdr header;
    ifinfomsg body;
  } request{};
  request.header = {sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0};
  VICTIM_CHECK(send(fd, &request, sizeof request, 0) == sizeof request);
  for (bool done = false; !done;) {
    alignas(nlmsghdr) char answer[16384];
    const ssize_t size = recv(fd, answer, sizeof answer, 0);
    VICTIM_CHECK(size > 0);
    auto left = static_cast<unsigned>(size);
    for (const auto* header = reinterpret_cast<const nlmsghdr*>(answer); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      VICTIM_CHECK(header->nlmsg_seq == sequence && header->nlmsg_type != NLMSG_ERROR);
      done = header->nlmsg_type == NLMSG_DONE;
    }
  }
}

int main() {
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  const int fresh = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE);
  if (fd < 0 || fresh < 0) victim_skip("netlink");
  const int on = 1;
  VICTIM_CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on) == 0);
  ask_for_links(fd, 5);
  sockaddr_nl before{};
  socklen_t size = sizeof before;
  VICTIM_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&before), &size) == 0);
  VICTIM_CHECK(before.nl_pid != 0);
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  VICTIM_CLASHES("of netlink) cannot be had here");
  victim_ready();
  victim_wait();
  sockaddr_nl now{};
  int value = 0;
  VICTIM_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&now), &size) == 0);
  VICTIM_CHECK(now.nl_pid == before.nl_pid);
  VICTIM_CHECK(getsockname(fresh, reinterpret_cast<sockaddr*>(&now), &size) == 0 &&
               now.nl_pid == 0);
  size = sizeof value;
  VICTIM_CHECK(getsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &value, &size) == 0 && value == 1);
  ask_for_links(fd, 6);
  ask_for_links(fresh, 7);
  victim_pass();
}
