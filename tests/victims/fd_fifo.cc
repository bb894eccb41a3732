// A FIFO with a name, both ends open here, and bytes inside.
#include <sys/stat.h>

#include "victim.h"

int main() {
  VICTIM_CHECK(mkfifo("fifo", 0600) == 0);
  const int both = open("fifo", O_RDWR);
  const int writing = open("fifo", O_WRONLY);
  VICTIM_CHECK(both >= 0 && writing >= 0 && write(writing, "inside", 6) == 6);
  VICTIM_NOT_COPIED("the original keeps it, and only one can have it");
  victim_ready();
  victim_wait();
  char text[8];
  VICTIM_CHECK(read(both, text, sizeof text) == 6 && std::memcmp(text, "inside", 6) == 0);
  VICTIM_CHECK(write(writing, "more", 4) == 4 && read(both, text, sizeof text) == 4);
  VICTIM_CHECK(unlink("fifo") == 0);
  victim_pass();
}
