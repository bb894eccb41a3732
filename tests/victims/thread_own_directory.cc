// A thread with a working directory of its own (unshare(CLONE_FS)).
#include <pthread.h>
#include <sys/stat.h>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void*) {
  VICTIM_CHECK(unshare(CLONE_FS) == 0 && chdir("/etc") == 0 && umask(0125) != 0125);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(access("passwd", R_OK) == 0 && umask(0) == 0125);
  VICTIM_CHECK(chdir("/usr") == 0);
  return nullptr;
}

int main() {
  pthread_t thread;
  pthread_barrier_init(&step, nullptr, 2);
  VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(access("passwd", R_OK) != 0 && umask(022) != 0125);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0 && access("bin", X_OK) != 0);
  victim_pass();
}
