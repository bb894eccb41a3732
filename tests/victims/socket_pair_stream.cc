// A pair of stream sockets with bytes on their way in both directions.
#include <sys/socket.h>

#include "victim.h"

int main() {
  int ends[2];
  VICTIM_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  VICTIM_CHECK(write(ends[0], "there", 5) == 5 && write(ends[1], "and back", 8) == 8);
  victim_ready();
  victim_wait();
  char text[16];
  VICTIM_CHECK(read(ends[1], text, sizeof text) == 5 && std::memcmp(text, "there", 5) == 0);
  VICTIM_CHECK(read(ends[0], text, sizeof text) == 8 && std::memcmp(text, "and back", 8) == 0);
  VICTIM_CHECK(shutdown(ends[0], SHUT_WR) == 0 && read(ends[1], text, sizeof text) == 0);
  victim_pass();
}
