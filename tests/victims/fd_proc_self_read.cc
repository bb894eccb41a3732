// Its own memory map in /proc, of which it has read a part: the rest would be another one's.
#include "victim.h"

int main() {
  const int maps = open("/proc/self/maps", O_RDONLY);
  char text[16] = "";
  VICTIM_CHECK(read(maps, text, sizeof text) == sizeof text);
  VICTIM_REFUSED("it tells of a process here");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(read(maps, text, sizeof text) == sizeof text);
  victim_pass();
}
