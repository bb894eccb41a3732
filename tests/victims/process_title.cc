// Arguments that were changed in place, as setproctitle does.
#include "victim.h"

int main(int, char** argv) {
  const std::size_t size = std::strlen(argv[0]);
  std::memset(argv[0], 0, size);
  std::strncpy(argv[0], "a title", size);
  victim_ready();
  victim_wait();
  char text[512] = "";
  const int file = open("/proc/self/cmdline", O_RDONLY);
  VICTIM_CHECK(read(file, text, sizeof text - 1) > 0 && std::strcmp(text, "a title") == 0);
  victim_pass();
}
