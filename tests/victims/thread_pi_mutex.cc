// A mutex with priority inheritance, held by one thread, which another waits for in the kernel.
#include <pthread.h>

#include "victim.h"

static pthread_mutex_t mutex;
static pid_t waiter = 0;
static bool released = false;

static void* wait_for_it(void*) {
  __atomic_store_n(&waiter, static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
  VICTIM_CHECK(pthread_mutex_lock(&mutex) == 0 && released);
  VICTIM_CHECK(pthread_mutex_unlock(&mutex) == 0);
  return nullptr;
}

int main() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
  VICTIM_CHECK(pthread_mutex_init(&mutex, &attributes) == 0 && pthread_mutex_lock(&mutex) == 0);
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, wait_for_it, nullptr) == 0);
  while (__atomic_load_n(&waiter, __ATOMIC_ACQUIRE) == 0) sched_yield();
  victim_await_syscall(getpid(), waiter, SYS_futex);
  victim_ready();
  victim_wait();
  victim_await_syscall(getpid(), waiter, SYS_futex);
  released = true;
  VICTIM_CHECK(pthread_mutex_unlock(&mutex) == 0 && pthread_join(thread, nullptr) == 0);
  victim_pass();
}
