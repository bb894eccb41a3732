// A thread that reads from a pipe, with the other end in the same process.
#include <pthread.h>

#include "victim.h"

static int ends[2];
static pid_t reader = 0;

static void* read_all(void*) {
  __atomic_store_n(&reader, static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
  char text[8];
  VICTIM_CHECK(read(ends[0], text, sizeof text) == 5 && std::memcmp(text, "hello", 5) == 0);
  return nullptr;
}

int main() {
  pthread_t thread;
  VICTIM_CHECK(pipe(ends) == 0 && pthread_create(&thread, nullptr, read_all, nullptr) == 0);
  while (__atomic_load_n(&reader, __ATOMIC_ACQUIRE) == 0) sched_yield();
  victim_await_syscall(getpid(), reader, SYS_read);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(write(ends[1], "hello", 5) == 5 && pthread_join(thread, nullptr) == 0);
  victim_pass();
}
