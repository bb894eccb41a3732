// A thread with a descriptor table of its own (unshare(CLONE_FILES)).
#include <pthread.h>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void*) {
  VICTIM_CHECK(unshare(CLONE_FILES) == 0 && dup2(0, 50) == 50);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(fcntl(50, F_GETFD) == 0);
  return nullptr;
}

int main() {
  pthread_t thread;
  pthread_barrier_init(&step, nullptr, 2);
  VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  pthread_barrier_wait(&step);
  VICTIM_REFUSED("it does not have the first thread's descriptors, which cannot be restored yet");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(fcntl(50, F_GETFD) == -1 && errno == EBADF);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
