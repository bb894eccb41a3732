// Children with root directories of their own: one that has become nobody, and works outside of its
// root; and one whose root was removed, as some daemons do.
#include <sys/stat.h>

#include "victim.h"

// Whose user may not change it any more, nor come to it by its path.
[[noreturn]] static void live_as_nobody(int told) {
  VICTIM_CHECK(mkdir("closed", 0700) == 0 && mkdir("closed/root", 0755) == 0);
  VICTIM_CHECK(chroot("closed/root") == 0 && fchdir(4) == 0 && close(3) == 0 && close(4) == 0);
  VICTIM_CHECK(setgid(65534) == 0 && setuid(65534) == 0);
  VICTIM_CHECK(write(told, "x", 1) == 1 && close(told) == 0);
  victim_await_signal();
  VICTIM_CHECK(access("/usr", R_OK) == -1 && errno == ENOENT && access("bin", X_OK) == 0);
  VICTIM_CHECK(open("/new", O_CREAT | O_WRONLY, 0600) == -1 && errno == EACCES);
  VICTIM_CHECK(getuid() == 65534 && chroot(".") == -1 && errno == EPERM);
  _exit(0);
}

[[noreturn]] static void live_in_a_removed_root(int told) {
  VICTIM_CHECK(mkdir("gone", 0750) == 0 && chroot("gone") == 0 && rmdir("gone") == 0);
  VICTIM_CHECK(chdir("/") == 0 && close(3) == 0 && close(4) == 0);
  VICTIM_CHECK(write(told, "x", 1) == 1 && close(told) == 0);
  victim_await_signal();
  struct stat stat {};
  VICTIM_CHECK(::stat("/", &stat) == 0 && stat.st_mode == (S_IFDIR | 0750) && stat.st_nlink == 0);
  VICTIM_CHECK(open("/file", O_CREAT | O_WRONLY, 0600) == -1 && errno == ENOENT);
  VICTIM_CHECK(access("..", F_OK) == 0 && access("/..", F_OK) == 0);
  VICTIM_CHECK(access("/etc", F_OK) == -1 && errno == ENOENT);
  _exit(0);
}

int main() {
  if (geteuid() != 0) victim_skip("root");
  VICTIM_CHECK(open(".", O_PATH | O_DIRECTORY) == 3 && open("/usr", O_PATH | O_DIRECTORY) == 4);
  int told[2];
  VICTIM_CHECK(pipe(told) == 0);
  const pid_t nobody = fork();
  if (nobody == 0) live_as_nobody(told[1]);
  const pid_t removed = fork();
  if (removed == 0) live_in_a_removed_root(told[1]);
  close(told[1]);
  char c;
  VICTIM_CHECK(read(told[0], &c, 1) == 1 && read(told[0], &c, 1) == 1 && read(told[0], &c, 1) == 0);
  VICTIM_LOSES_AT_HOME("/proc/self/exe** is telefork-blank");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(access("/usr", R_OK) == 0);
  VICTIM_CHECK(kill(nobody, SIGTERM) == 0 && kill(removed, SIGTERM) == 0);
  victim_check_child(nobody);
  victim_check_child(removed);
  VICTIM_CHECK(rmdir("closed/root") == 0 && rmdir("closed") == 0);
  victim_pass();
}
