// A listener whose name depends on where it was bound.
#include <sys/socket.h>
#include <sys/un.h>

#include "victim.h"

int main() {
  const sockaddr_un address{AF_UNIX, "listener"};
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(bind(listener, name, sizeof address) == 0 && listen(listener, 5) == 0);
  VICTIM_REFUSED("a socket cannot move yet");
  victim_ready();
  victim_wait();
  const int client = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(connect(client, name, sizeof address) == 0 &&
               accept(listener, nullptr, nullptr) >= 0);
  VICTIM_CHECK(unlink("listener") == 0);
  victim_pass();
}
