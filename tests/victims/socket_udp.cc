// UDP, bound and connected, with a datagram that waits.
#include <netinet/in.h>
#include <sys/socket.h>

#include "victim.h"

int main() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* name = reinterpret_cast<sockaddr*>(&address);
  socklen_t length = sizeof address;
  const int bound = socket(AF_INET, SOCK_DGRAM, 0);
  const int connected = socket(AF_INET, SOCK_DGRAM, 0);
  VICTIM_CHECK(bind(bound, name, length) == 0 && getsockname(bound, name, &length) == 0);
  VICTIM_CHECK(connect(connected, name, length) == 0 && send(connected, "one", 3, 0) == 3);
  VICTIM_REFUSED("it has what was not accepted or read yet");
  VICTIM_REFUSED("a socket cannot move yet");
  victim_ready();
  victim_wait();
  char text[8];
  sockaddr_in now{};
  VICTIM_CHECK(recv(bound, text, sizeof text, 0) == 3 && send(connected, "four", 4, 0) == 4);
  VICTIM_CHECK(recv(bound, text, sizeof text, 0) == 4);
  VICTIM_CHECK(getpeername(connected, reinterpret_cast<sockaddr*>(&now), &length) == 0);
  VICTIM_CHECK(now.sin_port == address.sin_port);
  victim_pass();
}
