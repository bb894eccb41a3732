// A thread with another user id than the rest.
#include <pthread.h>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void*) {
  VICTIM_CHECK(syscall(SYS_setresuid, -1, 65534, -1) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(geteuid() == 65534);
  return nullptr;
}

int main() {
  if (geteuid() != 0) victim_skip("root");
  pthread_t thread;
  pthread_barrier_init(&step, nullptr, 2);
  VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  pthread_barrier_wait(&step);
  VICTIM_REFUSED(
      "it does not have the first thread's user and group ids, capabilities, which cannot be "
      "restored yet");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(geteuid() == 0);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
