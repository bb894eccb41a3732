// /dev/null, zero, full, random and urandom.
#include "victim.h"

int main() {
  const int null = open("/dev/null", O_RDWR);
  const int zero = open("/dev/zero", O_RDONLY);
  const int full = open("/dev/full", O_WRONLY);
  const int random = open("/dev/random", O_RDONLY | O_NONBLOCK);
  const int urandom = open("/dev/urandom", O_RDONLY);
  victim_ready();
  victim_wait();
  long words[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  VICTIM_CHECK(read(null, words, 8) == 0 && write(null, words, 8) == 8 && words[0] == 1);
  VICTIM_CHECK(read(zero, words, sizeof words) == sizeof words && words[0] == 0 && words[7] == 0);
  VICTIM_CHECK(write(full, words, 1) == -1 && errno == ENOSPC);
  VICTIM_CHECK(read(urandom, words, sizeof words) == sizeof words && (words[0] | words[7]) != 0);
  VICTIM_CHECK((fcntl(random, F_GETFL) & O_NONBLOCK) != 0);
  victim_pass();
}
