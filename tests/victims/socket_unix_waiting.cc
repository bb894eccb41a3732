// A listener with a name in the file system, and a client that it has not accepted yet.
#include <sys/socket.h>
#include <sys/un.h>

#include "victim.h"

int main() {
  sockaddr_un address{AF_UNIX, ""};
  VICTIM_CHECK(getcwd(address.sun_path, sizeof address.sun_path - 16) != nullptr);
  std::strcat(address.sun_path, "/listener");
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(bind(listener, name, sizeof address) == 0 && listen(listener, 5) == 0);
  const int client = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(connect(client, name, sizeof address) == 0 && write(client, "hello", 5) == 5);
  VICTIM_REFUSED("it has what was not accepted or read yet");
  victim_ready();
  victim_wait();
  char text[8];
  const int accepted = accept(listener, nullptr, nullptr);
  VICTIM_CHECK(accepted >= 0 && read(accepted, text, sizeof text) == 5);
  const int second = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(connect(second, name, sizeof address) == 0 && unlink("listener") == 0);
  victim_pass();
}
