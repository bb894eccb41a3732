// Pairs of datagram and of sequenced-packet sockets, each packet apart.
#include <sys/socket.h>

#include "victim.h"

int main() {
  int pairs[2][2];
  VICTIM_CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pairs[0]) == 0);
  VICTIM_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pairs[1]) == 0);
  for (const auto& pair : pairs) {
    VICTIM_CHECK(write(pair[0], "a", 1) == 1 && write(pair[0], "bcd", 3) == 3);
  }
  victim_ready();
  victim_wait();
  for (const auto& pair : pairs) {
    char text[16];
    VICTIM_CHECK(read(pair[1], text, sizeof text) == 1 && text[0] == 'a');
    VICTIM_CHECK(read(pair[1], text, sizeof text) == 3 && std::memcmp(text, "bcd", 3) == 0);
    VICTIM_CHECK(recv(pair[1], text, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
  }
  victim_pass();
}
