// Sixteen threads that wait for a condition variable, each with a value of its own.
#include <pthread.h>

#include "victim.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool go = false;
static int done = 0;
static thread_local long own = 0;
static pid_t tids[16];

static void* wait(void* number) {
  own = reinterpret_cast<long>(number);
  const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
  pthread_mutex_lock(&lock);
  tids[own] = tid;
  while (!go) pthread_cond_wait(&changed, &lock);
  VICTIM_CHECK(own == reinterpret_cast<long>(number) && tid == syscall(SYS_gettid));
  ++done;
  pthread_mutex_unlock(&lock);
  return nullptr;
}

int main() {
  pthread_t threads[16];
  for (long i = 0; i < 16; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, wait, reinterpret_cast<void*>(i)) == 0);
  }
  for (pid_t& tid : tids) {
    while (__atomic_load_n(&tid, __ATOMIC_ACQUIRE) == 0) sched_yield();
    victim_await_syscall(getpid(), tid, SYS_futex);
  }
  victim_ready();
  victim_wait();
  pthread_mutex_lock(&lock);
  go = true;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  VICTIM_CHECK(done == 16);
  victim_pass();
}
