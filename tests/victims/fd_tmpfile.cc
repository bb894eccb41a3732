// A file without a name (O_TMPFILE), which can still be given one.
#include "victim.h"

int main() {
  const int fd = open(".", O_RDWR | O_TMPFILE, 0600);
  if (fd < 0) victim_skip("O_TMPFILE");
  VICTIM_CHECK(write(fd, "nameless", 8) == 8);
  VICTIM_LOSES_IN_NAMESPACE("cannot be given a name any more");
  victim_ready();
  victim_wait();
  char path[64];
  char text[16] = "";
  VICTIM_CHECK(pread(fd, text, sizeof text, 0) == 8 && std::strcmp(text, "nameless") == 0);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  VICTIM_CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
  VICTIM_CHECK(unlink("named") == 0);
  victim_pass();
}
