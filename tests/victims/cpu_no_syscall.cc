// A thread that does nothing but make system call -1, which fails each time.
#include <pthread.h>

#include "victim.h"

static volatile bool running = false;
static volatile bool end = false;

static void* compute(void*) {
  running = true;
  while (!end) VICTIM_CHECK(syscall(-1, 1, 2, 3) == -1 && errno == ENOSYS);
  return nullptr;
}

int main() {
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, compute, nullptr) == 0);
  while (!running) sched_yield();
  victim_ready();
  victim_wait();
  end = true;
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
