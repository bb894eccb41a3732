// The bases of FS and GS of two threads.
#include <asm/prctl.h>
#include <pthread.h>

#include "victim.h"

static pthread_barrier_t step;
static long areas[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};

static long read_gs(long offset) {
  long value = 0;
  asm volatile("movq %%gs:(%1), %0" : "=r"(value) : "r"(offset));
  return value;
}

static void check(int which) {
  unsigned long fs = 0;
  VICTIM_CHECK(read_gs(0) == areas[which][0] && read_gs(24) == areas[which][3]);
  VICTIM_CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0);
  VICTIM_CHECK(fs == reinterpret_cast<unsigned long>(__builtin_thread_pointer()));
}

static void* live(void*) {
  VICTIM_CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, areas[1]) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  check(1);
  return nullptr;
}

int main() {
  pthread_t thread;
  pthread_barrier_init(&step, nullptr, 2);
  VICTIM_CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, areas[0]) == 0);
  VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  check(0);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
