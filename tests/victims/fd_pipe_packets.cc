// A pipe in packet mode (O_DIRECT): what was written apart is read apart.
#include "victim.h"

int main() {
  int ends[2];
  VICTIM_CHECK(pipe2(ends, O_DIRECT) == 0);
  VICTIM_CHECK(write(ends[1], "one", 3) == 3 && write(ends[1], "three", 5) == 5);
  victim_ready();
  victim_wait();
  char text[16];
  VICTIM_CHECK((fcntl(ends[1], F_GETFL) & O_DIRECT) != 0);
  VICTIM_CHECK(read(ends[0], text, sizeof text) == 3 && std::memcmp(text, "one", 3) == 0);
  VICTIM_CHECK(read(ends[0], text, sizeof text) == 5 && std::memcmp(text, "three", 5) == 0);
  VICTIM_CHECK(close(ends[1]) == 0 && read(ends[0], text, sizeof text) == 0);
  victim_pass();
}
