// A TCP connection of the process to itself, with bytes that nobody has read.
#include <netinet/in.h>
#include <sys/socket.h>

#include "victim.h"

int main() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* name = reinterpret_cast<sockaddr*>(&address);
  socklen_t length = sizeof address;
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  VICTIM_CHECK(bind(listener, name, length) == 0 && listen(listener, 1) == 0);
  VICTIM_CHECK(getsockname(listener, name, &length) == 0);
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  VICTIM_CHECK(connect(client, name, length) == 0);
  const int server = accept(listener, nullptr, nullptr);
  VICTIM_CHECK(close(listener) == 0 && send(client, "unread", 6, 0) == 6);
  VICTIM_REFUSED("a socket cannot move yet");
  victim_ready();
  victim_wait();
  char text[8];
  VICTIM_CHECK(recv(server, text, 6, MSG_WAITALL) == 6 && std::memcmp(text, "unread", 6) == 0);
  VICTIM_CHECK(send(server, "answer", 6, 0) == 6 && recv(client, text, 6, MSG_WAITALL) == 6);
  VICTIM_CHECK(close(server) == 0 && recv(client, text, 1, 0) == 0);
  victim_pass();
}
