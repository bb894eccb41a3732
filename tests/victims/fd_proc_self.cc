// Its own status in /proc, and the folder of its descriptors.
#include "victim.h"

int main() {
  const int status = open("/proc/self/status", O_RDONLY);
  const int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
  VICTIM_REFUSED("it tells of a process here");
  victim_ready();
  victim_wait();
  char text[64] = "";
  VICTIM_CHECK(read(status, text, 5) == 5 && std::strcmp(text, "Name:") == 0);
  VICTIM_CHECK(readlinkat(folder, "0", text, sizeof text) == 9);
  VICTIM_CHECK(std::strncmp(text, "/dev/null", 9) == 0);
  victim_pass();
}
