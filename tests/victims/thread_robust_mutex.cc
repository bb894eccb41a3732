// A robust mutex that a thread holds, who then ends: the next one is told so by the kernel.
#include <pthread.h>

#include "victim.h"

static pthread_mutex_t mutex;
static pthread_barrier_t step;

static void* hold_and_end(void*) {
  VICTIM_CHECK(pthread_mutex_lock(&mutex) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  return nullptr;
}

int main() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&mutex, &attributes);
  pthread_barrier_init(&step, nullptr, 2);
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, hold_and_end, nullptr) == 0);
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(pthread_mutex_trylock(&mutex) == EBUSY);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  VICTIM_CHECK(pthread_mutex_lock(&mutex) == EOWNERDEAD);
  VICTIM_CHECK(pthread_mutex_consistent(&mutex) == 0 && pthread_mutex_unlock(&mutex) == 0);
  victim_pass();
}
