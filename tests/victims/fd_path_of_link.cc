// A symbolic link itself, named by O_PATH and O_NOFOLLOW.
#include "victim.h"

int main() {
  VICTIM_CHECK(symlink("/nowhere", "link") == 0);
  const int fd = open("link", O_PATH | O_NOFOLLOW);
  VICTIM_CHECK(fd >= 0);
  VICTIM_REFUSED("this kind of file cannot move");
  victim_ready();
  victim_wait();
  char text[32] = "";
  VICTIM_CHECK(readlinkat(fd, "", text, sizeof text) == 8 && std::strcmp(text, "/nowhere") == 0);
  VICTIM_CHECK(unlink("link") == 0);
  victim_pass();
}
