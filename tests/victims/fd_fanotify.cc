// A fanotify group that watches a folder.
#include <sys/fanotify.h>

#include "victim.h"

int main() {
  const int group = fanotify_init(FAN_NONBLOCK | FAN_REPORT_FID, O_RDONLY);
  if (group < 0) victim_skip("fanotify");
  if (fanotify_mark(group, FAN_MARK_ADD, FAN_CREATE, AT_FDCWD, ".") != 0) {
    victim_skip("fanotify that reports files by their handles");
  }
  VICTIM_REFUSED("this kind of descriptor cannot move yet");
  victim_ready();
  victim_wait();
  char buffer[1024];
  VICTIM_CHECK(read(group, buffer, sizeof buffer) == -1 && errno == EAGAIN);
  VICTIM_CHECK(close(open("first", O_CREAT | O_WRONLY, 0600)) == 0 && unlink("first") == 0);
  VICTIM_CHECK(read(group, buffer, sizeof buffer) > 0);
  victim_pass();
}
