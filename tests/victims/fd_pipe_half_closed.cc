// A pipe that nobody can write to any more, with some bytes in it, and one that nobody can read.
#include "victim.h"

int main() {
  int read_only[2];
  int write_only[2];
  VICTIM_CHECK(pipe(read_only) == 0 && pipe(write_only) == 0);
  VICTIM_CHECK(write(read_only[1], "last", 4) == 4);
  VICTIM_CHECK(close(read_only[1]) == 0 && close(write_only[0]) == 0);
  std::signal(SIGPIPE, SIG_IGN);
  victim_ready();
  victim_wait();
  char text[8];
  VICTIM_CHECK(read(read_only[0], text, sizeof text) == 4 && std::memcmp(text, "last", 4) == 0);
  VICTIM_CHECK(read(read_only[0], text, sizeof text) == 0);
  VICTIM_CHECK(write(write_only[1], "x", 1) == -1 && errno == EPIPE);
  victim_pass();
}
