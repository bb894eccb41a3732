// A child that has its descriptors, directories and umask in common with its parent (clone(2) with
// CLONE_FILES and CLONE_FS).
#include <sys/stat.h>

#include "victim.h"

namespace {

constexpr int kFile = 60;
constexpr int kLater = 70;
constexpr int kLatest = 71;

void live_as_child() {
  victim_await_signal();
  VICTIM_CHECK(lseek(kLater, 0, SEEK_CUR) == 9 && access("passwd", R_OK) == 0);
  VICTIM_CHECK(umask(0125) == 0137 && chdir("/usr") == 0);
  VICTIM_CHECK(dup2(kLater, kLatest) == kLatest && close(kLater) == 0);
  _exit(0);
}

}  // namespace

int main() {
  const int file = open("/etc/passwd", O_RDONLY);
  VICTIM_CHECK(dup2(file, kFile) == kFile && close(file) == 0 && lseek(kFile, 7, SEEK_SET) == 7);
  int ends[2];
  VICTIM_CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
  const long child =
      syscall(SYS_clone, CLONE_FILES | CLONE_FS | SIGCHLD, nullptr, nullptr, nullptr, 0L);
  VICTIM_CHECK(child >= 0);
  if (child == 0) live_as_child();
  VICTIM_REFUSED_BY_HOME("it shares its descriptors, directories and umask with process");
  victim_ready();
  victim_wait();
  char byte = 0;
  VICTIM_CHECK(read(ends[0], &byte, 1) == 1 && byte == 'x');
  VICTIM_CHECK(lseek(kFile, 0, SEEK_CUR) == 7 && dup2(kFile, kLater) == kLater);
  VICTIM_CHECK(lseek(kFile, 9, SEEK_SET) == 9 && chdir("/etc") == 0);
  umask(0137);
  VICTIM_CHECK(kill(static_cast<pid_t>(child), SIGTERM) == 0);
  victim_check_child(static_cast<pid_t>(child));
  VICTIM_CHECK(fcntl(kLater, F_GETFD) == -1 && lseek(kLatest, 0, SEEK_CUR) == 9);
  VICTIM_CHECK(access("bin", X_OK) == 0 && umask(022) == 0125);
  victim_pass();
}
