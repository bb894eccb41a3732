// A pipe with both ends inside and not a byte of room left.
#include <fcntl.h>

#include "victim.h"

int main() {
  int ends[2];
  VICTIM_CHECK(pipe2(ends, O_NONBLOCK) == 0);
  const int size = fcntl(ends[1], F_SETPIPE_SZ, 16384);
  VICTIM_CHECK(size == 16384);
  long written = 0;
  for (char c = 'a'; write(ends[1], &c, 1) == 1; c = c == 'z' ? 'a' : static_cast<char>(c + 1)) {
    ++written;
  }
  VICTIM_CHECK(errno == EAGAIN && written > 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(fcntl(ends[0], F_GETPIPE_SZ) == size);
  VICTIM_CHECK(write(ends[1], "x", 1) == -1 && errno == EAGAIN);
  char expected = 'a';
  for (long i = 0; i < written; ++i) {
    char c = 0;
    VICTIM_CHECK(read(ends[0], &c, 1) == 1 && c == expected);
    expected = c == 'z' ? 'a' : static_cast<char>(c + 1);
  }
  char c = 0;
  VICTIM_CHECK(read(ends[0], &c, 1) == -1 && errno == EAGAIN);
  victim_pass();
}
