// Another root directory, and what was opened and is watched within and outside of it.
#include <sys/inotify.h>
#include <sys/stat.h>

#include "victim.h"

// That a file is made in `folder`, and removed, is told by that watch.
static void check_watch(int notify, int watch, int folder) {
  const int made = openat(folder, "new", O_CREAT | O_WRONLY, 0600);
  VICTIM_CHECK(made >= 0 && close(made) == 0 && unlinkat(folder, "new", 0) == 0);
  alignas(inotify_event) char buffer[1024];
  VICTIM_CHECK(read(notify, buffer, sizeof buffer) > 0);
  const auto* created = reinterpret_cast<const inotify_event*>(buffer);
  VICTIM_CHECK(created->wd == watch && std::strcmp(created->name, "new") == 0);
}

int main() {
  if (geteuid() != 0) victim_skip("root");
  const int outside = open(".", O_RDONLY | O_DIRECTORY);
  const int passwd = open("/etc/passwd", O_RDONLY);
  const int status = open("/proc/self/status", O_RDONLY);
  VICTIM_CHECK(mkdir("root", 0700) == 0 && chroot("root") == 0 && chdir("/") == 0);
  const int inside = open("/", O_RDONLY | O_DIRECTORY);
  const int notify = inotify_init1(IN_NONBLOCK);
  const int watch_inside = inotify_add_watch(notify, "/", IN_CREATE);
  VICTIM_CHECK(fchdir(outside) == 0);
  const int watch_outside = inotify_add_watch(notify, ".", IN_CREATE);
  VICTIM_CHECK(fchdir(inside) == 0 && watch_inside >= 0 && watch_outside >= 0);
  victim_ready();
  victim_wait();
  char path[256] = "";
  VICTIM_CHECK(getcwd(path, sizeof path) != nullptr && std::strcmp(path, "/") == 0);
  VICTIM_CHECK(access("/etc/passwd", R_OK) == -1 && errno == ENOENT);
  VICTIM_CHECK(access("..", R_OK) == 0 && access("../root", R_OK) == -1);
  check_watch(notify, watch_inside, inside);
  check_watch(notify, watch_outside, outside);
  VICTIM_CHECK(read(passwd, path, 5) == 5 && read(status, path, 5) == 5);
  VICTIM_CHECK(std::strncmp(path, "Name:", 5) == 0);
  // Out of it again, to tidy up.
  VICTIM_CHECK(mkdir("hole", 0700) == 0 && chroot("hole") == 0 && rmdir("hole") == 0);
  VICTIM_CHECK(chdir("..") == 0 && rmdir("root") == 0);
  victim_pass();
}
