// Threads that do nothing but make short system calls, whose results have to be right.
#include <pthread.h>

#include "victim.h"

static volatile int running = 0;
static volatile bool end = false;

static void* compute(void*) {
  const pid_t pid = getpid();
  const long tid = syscall(SYS_gettid);
  __atomic_add_fetch(&running, 1, __ATOMIC_ACQ_REL);
  while (!end) {
    VICTIM_CHECK(syscall(SYS_getpid) == pid && syscall(SYS_gettid) == tid);
    VICTIM_CHECK(syscall(SYS_lseek, 99, 0, 0) == -1 && errno == EBADF);
    VICTIM_CHECK(syscall(SYS_sched_yield) == 0);
  }
  return nullptr;
}

int main() {
  pthread_t threads[3];
  for (pthread_t& thread : threads) {
    VICTIM_CHECK(pthread_create(&thread, nullptr, compute, nullptr) == 0);
  }
  while (running != 3) sched_yield();
  victim_ready();
  victim_wait();
  end = true;
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
