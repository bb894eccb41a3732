// O_NOFOLLOW stays among the flags of a file that is open.
#include "victim.h"

int main() {
  const int fd = open("/etc/passwd", O_RDONLY | O_NOFOLLOW);
  VICTIM_CHECK(fd >= 0 && (fcntl(fd, F_GETFL) & O_NOFOLLOW) != 0);
  VICTIM_LOSES("F_GETFL) no longer says that it was opened with it");
  victim_ready();
  victim_wait();
  VICTIM_CHECK((fcntl(fd, F_GETFL) & O_NOFOLLOW) != 0);
  victim_pass();
}
