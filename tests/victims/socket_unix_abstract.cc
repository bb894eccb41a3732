// A datagram socket and a listener with abstract names.
#include <sys/socket.h>
#include <sys/un.h>
#include <cstddef>

#include "victim.h"

static sockaddr_un address{AF_UNIX, ""};

static socklen_t set_name(const char* what) {
  snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "victim-%s-%d", what, getpid());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                std::strlen(address.sun_path + 1));
}

int main() {
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  const int receiver = socket(AF_UNIX, SOCK_DGRAM, 0);
  VICTIM_CHECK(bind(receiver, name, set_name("receiver")) == 0);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  VICTIM_CHECK(bind(listener, name, set_name("listener")) == 0 && listen(listener, 5) == 0);
  VICTIM_CLASHES("Address already in use");
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  char text[8];
  const int sender = socket(AF_UNIX, SOCK_DGRAM, 0);
  VICTIM_CHECK(sendto(sender, "hello", 5, 0, name, set_name("receiver")) == 5);
  VICTIM_CHECK(recv(receiver, text, sizeof text, MSG_DONTWAIT) == 5);
  const int client = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(accept(listener, nullptr, nullptr) == -1 && errno == EAGAIN);
  VICTIM_CHECK(connect(client, name, set_name("listener")) == 0);
  VICTIM_CHECK(accept(listener, nullptr, nullptr) >= 0);
  victim_pass();
}
