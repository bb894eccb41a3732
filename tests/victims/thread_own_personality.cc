// A thread with a personality of its own (personality(2)).
#include <pthread.h>
#include <sys/personality.h>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void*) {
  constexpr unsigned long kAsk = 0xffffffff;
  VICTIM_CHECK(personality(ADDR_NO_RANDOMIZE | SHORT_INODE) >= 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(personality(kAsk) == (ADDR_NO_RANDOMIZE | SHORT_INODE));
  return nullptr;
}

int main() {
  pthread_t thread;
  pthread_barrier_init(&step, nullptr, 2);
  VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  VICTIM_CHECK((personality(0xffffffff) & (ADDR_NO_RANDOMIZE | SHORT_INODE)) == 0);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
