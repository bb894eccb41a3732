// Detached threads, one of which ends only after the move, and what waits for it by a condition.
#include <pthread.h>

#include "victim.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int started = 0;
static int ended = 0;
static bool go = false;

static void* live(void*) {
  pthread_mutex_lock(&lock);
  ++started;
  pthread_cond_broadcast(&changed);
  while (!go) pthread_cond_wait(&changed, &lock);
  ++ended;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  return nullptr;
}

int main() {
  pthread_attr_t detached;
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  for (int i = 0; i < 3; ++i) VICTIM_CHECK(pthread_create(&thread, &detached, live, nullptr) == 0);
  pthread_mutex_lock(&lock);
  while (started != 3) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
  victim_ready();
  victim_wait();
  pthread_mutex_lock(&lock);
  go = true;
  pthread_cond_broadcast(&changed);
  while (ended != 3) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
  victim_pass();
}
