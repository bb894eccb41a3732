// Packets that have descriptors along: the other end of a pair, which has some on their way itself,
// and the very socket that they are to be read from.
#include "sending.h"

int main() {
  int outer[2];
  int inner[2];
  VICTIM_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, outer) == 0 &&
               socketpair(AF_UNIX, SOCK_DGRAM, 0, inner) == 0);
  const int file = open("/etc/passwd", O_RDONLY);
  VICTIM_CHECK(lseek(file, 8, SEEK_SET) == 8);
  send_with(inner[0], "file", {file});
  send_with(outer[0], "pair", {inner[1], outer[1]});
  VICTIM_CHECK(send(outer[0], "plain", 5, 0) == 5);
  VICTIM_CHECK(close(inner[1]) == 0 && close(file) == 0);
  VICTIM_NOT_COPIED("a socket cannot move yet");
  victim_ready();
  victim_wait();
  const SentMessage pair = receive_with(outer[1], sizeof pair.bytes);
  VICTIM_CHECK(pair.size == 4 && pair.count == 2);
  const SentMessage plain = receive_with(pair.fds[1], sizeof plain.bytes);
  VICTIM_CHECK(plain.size == 5 && plain.count == 0);
  const SentMessage sent = receive_with(pair.fds[0], sizeof sent.bytes);
  VICTIM_CHECK(sent.size == 4 && sent.count == 1 && lseek(sent.fds[0], 0, SEEK_CUR) == 8);
  VICTIM_CHECK(send(pair.fds[0], "back", 4, 0) == 4);
  VICTIM_CHECK(receive_with(inner[0], sizeof sent.bytes).size == 4);
  victim_pass();
}
