// A datagram socket with an abstract name, and what was sent to it.
#include <sys/socket.h>
#include <sys/un.h>
#include <cstddef>

#include "victim.h"

int main() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "victim-%d", getpid());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                             std::strlen(address.sun_path + 1));
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  const int receiver = socket(AF_UNIX, SOCK_DGRAM, 0);
  const int sender = socket(AF_UNIX, SOCK_DGRAM, 0);
  VICTIM_CHECK(bind(receiver, name, length) == 0);
  VICTIM_CHECK(sendto(sender, "first", 5, 0, name, length) == 5);
  VICTIM_REFUSED("it has what was not accepted or read yet");
  victim_ready();
  victim_wait();
  char text[8];
  VICTIM_CHECK(recv(receiver, text, sizeof text, MSG_DONTWAIT) == 5);
  VICTIM_CHECK(sendto(sender, "second", 6, 0, name, length) == 6);
  VICTIM_CHECK(recv(receiver, text, sizeof text, MSG_DONTWAIT) == 6);
  victim_pass();
}
