// A thread that reads the time stamp counter all the while.
#include <pthread.h>
#include <x86intrin.h>

#include "victim.h"

static volatile bool running = false;
static volatile bool end = false;

static void* compute(void*) {
  unsigned long last = __rdtsc();
  running = true;
  while (!end) {
    const unsigned long now = __rdtsc();
    VICTIM_CHECK(now >= last || last - now < 1'000'000);
    last = now;
  }
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
