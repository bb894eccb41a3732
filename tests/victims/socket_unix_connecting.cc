// Clients that were not accepted yet and have sent nothing, in their order; behind one that was.
#include <sys/un.h>

#include "sending.h"

static int connect_to(const sockaddr_un& address) {
  const int client = socket(AF_UNIX, SOCK_STREAM, 0);
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  VICTIM_CHECK(connect(client, name, sizeof address) == 0);
  return client;
}

int main() {
  sockaddr_un address{AF_UNIX, ""};
  VICTIM_CHECK(getcwd(address.sun_path, sizeof address.sun_path - 16) != nullptr);
  std::strcat(address.sun_path, "/listener");
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  VICTIM_CHECK(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
               listen(listener, 5) == 0);
  const int first = connect_to(address);
  const int accepted = accept(listener, nullptr, nullptr);
  const int second = connect_to(address);
  const int third = connect_to(address);
  VICTIM_CHECK(accepted >= 0 && shutdown(third, SHUT_WR) == 0);
  VICTIM_NOT_COPIED("it has what was not accepted or read yet");
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  VICTIM_NOT_COPIED("a socket cannot move yet");
  VICTIM_CLASHES_IN_FILES("listener cannot be had here");
  victim_ready();
  victim_wait();
  char text[8];
  VICTIM_CHECK(write(first, "first", 5) == 5 && read(accepted, text, sizeof text) == 5);
  VICTIM_CHECK(write(second, "second", 6) == 6);
  const int next = accept(listener, nullptr, nullptr);
  VICTIM_CHECK(next >= 0 && read(next, text, sizeof text) == 6);
  VICTIM_CHECK(write(next, "back", 4) == 4 && read(second, text, sizeof text) == 4);
  const int last = accept(listener, nullptr, nullptr);
  VICTIM_CHECK(last >= 0 && read(last, text, sizeof text) == 0);
  VICTIM_CHECK(write(last, "back", 4) == 4 && read(third, text, sizeof text) == 4);
  VICTIM_CHECK(unlink("listener") == 0);
  victim_pass();
}
