// Names of threads, with characters that a parser may stumble over.
#include <pthread.h>
#include <sys/prctl.h>

#include "victim.h"

static pthread_barrier_t step;
static const char* const kNames[4] = {"worker ) 1 S", "a\nb\\", "", "fifteen letters"};

static void* live(void* name) {
  VICTIM_CHECK(prctl(PR_SET_NAME, name) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  char now[16];
  VICTIM_CHECK(prctl(PR_GET_NAME, now) == 0 &&
               std::strcmp(now, static_cast<const char*>(name)) == 0);
  return nullptr;
}

int main() {
  pthread_t threads[4];
  pthread_barrier_init(&step, nullptr, 5);
  for (int i = 0; i < 4; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, live, const_cast<char*>(kNames[i])) == 0);
  }
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
