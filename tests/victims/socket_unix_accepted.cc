// A connection by a name, both ends of which are here, with what is on its way.
#include <sys/socket.h>
#include <sys/un.h>
#include <initializer_list>

#include "victim.h"

static sockaddr_un address{AF_UNIX, ""};
static const auto* const name = reinterpret_cast<const sockaddr*>(&address);

static void check_names(int client, int accepted) {
  sockaddr_un found{};
  socklen_t size = sizeof found;
  VICTIM_CHECK(getsockname(accepted, reinterpret_cast<sockaddr*>(&found), &size) == 0);
  VICTIM_CHECK(std::strcmp(found.sun_path, address.sun_path) == 0);
  found = {};
  size = sizeof found;
  VICTIM_CHECK(getpeername(client, reinterpret_cast<sockaddr*>(&found), &size) == 0);
  VICTIM_CHECK(std::strcmp(found.sun_path, address.sun_path) == 0);
  for (const int fd : {client, accepted}) {
    ucred other{};
    size = sizeof other;
    VICTIM_CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &size) == 0);
    VICTIM_CHECK(other.pid == getpid());
  }
}

int main() {
  VICTIM_CHECK(getcwd(address.sun_path, sizeof address.sun_path - 16) != nullptr);
  std::strcat(address.sun_path, "/listener");
  const int client = socket(AF_UNIX, SOCK_STREAM, 0);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(bind(listener, name, sizeof address) == 0 && listen(listener, 5) == 0);
  VICTIM_CHECK(connect(client, name, sizeof address) == 0);
  const int accepted = accept(listener, nullptr, nullptr);
  VICTIM_CHECK(accepted >= 0 && write(client, "to", 2) == 2 && write(accepted, "fro", 3) == 3);
  check_names(client, accepted);
  VICTIM_CLASHES_IN_FILES("Address already in use");
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  VICTIM_NOT_COPIED("a socket cannot move yet");
  victim_ready();
  victim_wait();
  check_names(client, accepted);
  char text[8];
  VICTIM_CHECK(read(accepted, text, sizeof text) == 2 && read(client, text, sizeof text) == 3);
  VICTIM_CHECK(write(client, "again", 5) == 5 && read(accepted, text, sizeof text) == 5);
  const int second = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(connect(second, name, sizeof address) == 0);
  const int other = accept(listener, nullptr, nullptr);
  VICTIM_CHECK(write(second, "new", 3) == 3 && read(other, text, sizeof text) == 3);
  VICTIM_CHECK(unlink("listener") == 0);
  victim_pass();
}
