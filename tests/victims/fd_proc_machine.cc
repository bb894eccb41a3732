// Files of the whole machine in /proc and /sys, read in part.
#include "victim.h"

int main() {
  const int version = open("/proc/version", O_RDONLY);
  const int limit = open("/proc/sys/kernel/pid_max", O_RDONLY);
  char text[64];
  VICTIM_CHECK(read(version, text, 6) == 6 && std::memcmp(text, "Linux ", 6) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(read(version, text, 8) == 8 && std::memcmp(text, "version ", 8) == 0);
  VICTIM_CHECK(read(limit, text, sizeof text) > 0 && std::atoi(text) > 0);
  victim_pass();
}
