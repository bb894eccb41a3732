// Threads with root directories of their own, in a process that has another one than the machine;
// one of them in the machine's.
#include <pthread.h>
#include <sys/stat.h>

#include "victim.h"

static pthread_barrier_t step;
static int machine;

static void* live_deeper(void*) {
  VICTIM_CHECK(unshare(CLONE_FS) == 0 && chroot("/deeper") == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  // It works where the others have their root.
  VICTIM_CHECK(access("/deeper", F_OK) == -1 && access("deeper", F_OK) == 0);
  return nullptr;
}

static void* live_outside(void*) {
  VICTIM_CHECK(unshare(CLONE_FS) == 0 && fchdir(machine) == 0 && chroot(".") == 0);
  VICTIM_CHECK(chdir("/usr") == 0 && umask(0123) != 0123);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(access("/etc/passwd", R_OK) == 0 && access("bin", X_OK) == 0 && umask(0) == 0123);
  return nullptr;
}

static void* live_inside(void*) {
  VICTIM_CHECK(unshare(CLONE_FS) == 0 && chdir("/deeper") == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(access("../deeper", F_OK) == 0 && access("/deeper", F_OK) == 0);
  return nullptr;
}

int main() {
  if (geteuid() != 0) victim_skip("root");
  machine = open("/", O_PATH | O_DIRECTORY);
  VICTIM_CHECK(mkdir("root", 0755) == 0 && mkdir("root/deeper", 0755) == 0);
  VICTIM_CHECK(chroot("root") == 0 && chdir("/") == 0);
  pthread_barrier_init(&step, nullptr, 4);
  pthread_t threads[3];
  void* (*const lives[])(void*) = {live_deeper, live_outside, live_inside};
  for (int i = 0; i < 3; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, lives[i], nullptr) == 0);
  }
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  for (const pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  VICTIM_CHECK(access("/etc", F_OK) == -1 && access("/deeper", F_OK) == 0);
  VICTIM_CHECK(rmdir("deeper") == 0 && mkdir("hole", 0700) == 0 && chroot("hole") == 0);
  VICTIM_CHECK(rmdir("hole") == 0 && chdir("..") == 0 && rmdir("root") == 0);
  victim_pass();
}
