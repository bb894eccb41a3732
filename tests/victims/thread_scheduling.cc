// Policies, priorities, nice values and CPUs, another for each thread.
#include <pthread.h>
#include <sys/resource.h>

#include "victim.h"

static pthread_barrier_t step;

static void set_up(long which) {
  const sched_param none{0};
  if (which == 0) VICTIM_CHECK(sched_setscheduler(0, SCHED_BATCH, &none) == 0);
  if (which == 1) VICTIM_CHECK(sched_setscheduler(0, SCHED_IDLE, &none) == 0);
  if (which == 2) VICTIM_CHECK(setpriority(PRIO_PROCESS, 0, 7) == 0);
  if (which == 3) {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    VICTIM_CHECK(sched_setaffinity(0, sizeof first, &first) == 0);
  }
}

static void* live(void* number) {
  const long which = reinterpret_cast<long>(number);
  const int nice = getpriority(PRIO_PROCESS, 0);
  set_up(which);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  cpu_set_t cpus;
  const int policies[] = {SCHED_BATCH, SCHED_IDLE, SCHED_OTHER, SCHED_OTHER};
  VICTIM_CHECK(sched_getscheduler(0) == policies[which]);
  VICTIM_CHECK(getpriority(PRIO_PROCESS, 0) == (which == 2 ? 7 : nice));
  VICTIM_CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
  VICTIM_CHECK(which != 3 || (CPU_COUNT(&cpus) == 1 && CPU_ISSET(0, &cpus)));
  return nullptr;
}

int main() {
  pthread_t threads[4];
  pthread_barrier_init(&step, nullptr, 5);
  for (long i = 0; i < 4; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, live, reinterpret_cast<void*>(i)) == 0);
  }
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
