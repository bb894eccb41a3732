// The area of restartable sequences that glibc registers for each thread: the kernel keeps the
// CPU's number in it.
#include <pthread.h>
#include <sys/rseq.h>

#include "victim.h"

static pthread_barrier_t step;

static const volatile struct rseq* area() {
  return reinterpret_cast<const volatile struct rseq*>(
      static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset);
}

// Bound to one CPU, the number has to be that one's.
static void check_number() {
  cpu_set_t all;
  VICTIM_CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    VICTIM_CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    VICTIM_CHECK(area()->cpu_id == static_cast<unsigned>(cpu) && sched_getcpu() == cpu);
  }
  VICTIM_CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
}

static void* live(void*) {
  check_number();
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  check_number();
  return nullptr;
}

int main() {
  if (__rseq_size == 0) victim_skip("rseq");
  pthread_t threads[3];
  pthread_barrier_init(&step, nullptr, 4);
  for (pthread_t& thread : threads) {
    VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  }
  check_number();
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  check_number();
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
