// A hundred threads, each with a value of its own on its stack and in its local storage.
#include <pthread.h>

#include "victim.h"

static pthread_barrier_t all_there;
static pthread_barrier_t go_on;
static thread_local long own = 0;

static void* live(void* argument) {
  const long number = reinterpret_cast<long>(argument);
  volatile long on_stack[64];
  own = number;
  for (volatile long& word : on_stack) word = number;
  const long tid = syscall(SYS_gettid);
  pthread_barrier_wait(&all_there);
  pthread_barrier_wait(&go_on);
  VICTIM_CHECK(own == number && syscall(SYS_gettid) == tid);
  for (volatile long& word : on_stack) VICTIM_CHECK(word == number);
  return argument;
}

int main() {
  pthread_t threads[100];
  pthread_barrier_init(&all_there, nullptr, 101);
  pthread_barrier_init(&go_on, nullptr, 101);
  for (long i = 0; i < 100; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, live, reinterpret_cast<void*>(i)) == 0);
  }
  pthread_barrier_wait(&all_there);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&go_on);
  for (long i = 0; i < 100; ++i) {
    void* result = nullptr;
    VICTIM_CHECK(pthread_join(threads[i], &result) == 0 && result == reinterpret_cast<void*>(i));
  }
  victim_pass();
}
