// Threads that do nothing but ask for the time, which they do without the kernel.
#include <pthread.h>

#include <ctime>

#include "victim.h"

static volatile int running = 0;
static volatile bool end = false;

static void* compute(void*) {
  timespec last{};
  clock_gettime(CLOCK_MONOTONIC, &last);
  __atomic_add_fetch(&running, 1, __ATOMIC_ACQ_REL);
  while (!end) {
    timespec now{};
    VICTIM_CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    VICTIM_CHECK(now.tv_sec > last.tv_sec ||
                 (now.tv_sec == last.tv_sec && now.tv_nsec >= last.tv_nsec));
    last = now;
  }
  return nullptr;
}

int main() {
  pthread_t threads[4];
  for (pthread_t& thread : threads) {
    VICTIM_CHECK(pthread_create(&thread, nullptr, compute, nullptr) == 0);
  }
  while (running != 4) sched_yield();
  victim_ready();
  victim_wait();
  end = true;
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
