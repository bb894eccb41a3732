// A thread under SCHED_FIFO and one under SCHED_RR that resets on fork.
#include <pthread.h>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void* argument) {
  const bool fifo = argument != nullptr;
  const int policy = fifo ? SCHED_FIFO : SCHED_RR | SCHED_RESET_ON_FORK;
  const sched_param wanted{fifo ? 3 : 9};
  VICTIM_CHECK(sched_setscheduler(0, policy, &wanted) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  sched_param now{};
  VICTIM_CHECK(sched_getscheduler(0) == policy && sched_getparam(0, &now) == 0);
  VICTIM_CHECK(now.sched_priority == wanted.sched_priority);
  return nullptr;
}

int main() {
  const sched_param wanted{3};
  if (sched_setscheduler(0, SCHED_FIFO, &wanted) != 0) victim_skip("real-time scheduling");
  const sched_param none{0};
  VICTIM_CHECK(sched_setscheduler(0, SCHED_OTHER, &none) == 0);
  static int one = 1;
  pthread_t threads[2];
  pthread_barrier_init(&step, nullptr, 3);
  VICTIM_CHECK(pthread_create(&threads[0], nullptr, live, &one) == 0);
  VICTIM_CHECK(pthread_create(&threads[1], nullptr, live, nullptr) == 0);
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
