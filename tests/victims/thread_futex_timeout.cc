// Threads in futex calls with absolute deadlines: far off, and soon; requeued, and of a set of
// bits.
#include <pthread.h>

#include <ctime>

#include "victim.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static pid_t tids[2];

static void* wait(void* number) {
  const long which = reinterpret_cast<long>(number);
  timespec end{};
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += which == 0 ? 1 : 10'000;
  pthread_mutex_lock(&lock);
  __atomic_store_n(&tids[which], static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
  const int result = pthread_cond_timedwait(&never, &lock, &end);
  pthread_mutex_unlock(&lock);
  VICTIM_CHECK(result == (which == 0 ? ETIMEDOUT : 0));
  return nullptr;
}

int main() {
  pthread_t threads[2];
  for (long i = 0; i < 2; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, wait, reinterpret_cast<void*>(i)) == 0);
    while (__atomic_load_n(&tids[i], __ATOMIC_ACQUIRE) == 0) sched_yield();
    victim_await_syscall(getpid(), tids[i], SYS_futex);
  }
  victim_ready();
  victim_await_signal();  // only one: whether the first one waits still is a matter of time
  VICTIM_CHECK(pthread_join(threads[0], nullptr) == 0);
  pthread_mutex_lock(&lock);
  pthread_cond_signal(&never);
  pthread_mutex_unlock(&lock);
  VICTIM_CHECK(pthread_join(threads[1], nullptr) == 0);
  victim_pass();
}
