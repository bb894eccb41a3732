// A TCP listener on IPv4 and one on IPv6, with options.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "victim.h"

static int make_listener(int family) {
  sockaddr_storage address{};
  address.ss_family = static_cast<sa_family_t>(family);
  const int one = 1;
  const int fd = socket(family, SOCK_STREAM, 0);
  if (fd < 0) return -1;
  VICTIM_CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
  if (family == AF_INET6) {
    VICTIM_CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) == 0);
  }
  VICTIM_CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  VICTIM_CHECK(listen(fd, 7) == 0);
  return fd;
}

static void check_listener(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  int value = 0;
  socklen_t size = sizeof value;
  VICTIM_CHECK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &size) == 0 && value != 0);
  VICTIM_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  const int client = socket(address.ss_family, SOCK_STREAM, 0);
  VICTIM_CHECK(connect(client, reinterpret_cast<sockaddr*>(&address), length) == 0);
  VICTIM_CHECK(accept(fd, nullptr, nullptr) >= 0);
}

int main() {
  const int v4 = make_listener(AF_INET);
  const int v6 = make_listener(AF_INET6);
  if (v6 < 0) victim_skip("IPv6");
  VICTIM_CLASHES("Address already in use");
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  check_listener(v4);
  check_listener(v6);
  victim_pass();
}
