// A netlink socket with an answer that nobody has read.
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "victim.h"

int main() {
  const int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
  if (fd < 0) victim_skip("netlink");
  struct {
    nlmsghdr header;
    ifinfomsg body;
  } request{};
  request.header = {sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 5, 0};
  VICTIM_CHECK(send(fd, &request, sizeof request, 0) == sizeof request);
  VICTIM_REFUSED("it has what was not accepted or read yet");
  victim_ready();
  victim_wait();
  alignas(nlmsghdr) char answer[16384];
  VICTIM_CHECK(recv(fd, answer, sizeof answer, 0) > 0);
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer);
  VICTIM_CHECK(header->nlmsg_type == RTM_NEWLINK && header->nlmsg_seq == 5);
  victim_pass();
}
