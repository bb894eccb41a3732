// Its own status in /proc, the folder of its descriptors, and its memory, with a position.
#include "victim.h"

int main() {
  const int status = open("/proc/self/status", O_RDONLY);
  const int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
  static const char text_here[] = "here";
  const auto address = reinterpret_cast<off_t>(text_here);
  const int memory = open("/proc/self/mem", O_RDONLY);
  VICTIM_CHECK(memory >= 0 && lseek(memory, address, SEEK_SET) == address);
  victim_ready();
  victim_wait();
  char text[64] = "";
  VICTIM_CHECK(read(memory, text, 5) == 5 && std::strcmp(text, "here") == 0);
  std::memset(text, 0, sizeof text);
  VICTIM_CHECK(read(status, text, 5) == 5 && std::strcmp(text, "Name:") == 0);
  VICTIM_CHECK(readlinkat(folder, "0", text, sizeof text) == 9);
  VICTIM_CHECK(std::strncmp(text, "/dev/null", 9) == 0);
  victim_pass();
}
