// Anonymous memory that a child shares, and private memory that it has a copy of.
#include <sys/mman.h>

#include "victim.h"

int main() {
  auto* shared = static_cast<int*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  static volatile int copied = 1;
  const pid_t child = fork();
  if (child == 0) {
    copied = 2;
    __atomic_store_n(shared, 1, __ATOMIC_RELEASE);
    victim_await_signal();
    VICTIM_CHECK(copied == 2 && shared[1] == 77);
    shared[2] = 88;
    _exit(0);
  }
  while (__atomic_load_n(shared, __ATOMIC_ACQUIRE) == 0) sched_yield();
  VICTIM_REFUSED_BY_HOME_TO_PLAIN_USERS("this user cannot have them share again here");
  victim_ready();
  victim_wait();
  shared[1] = 77;
  VICTIM_CHECK(kill(child, SIGTERM) == 0);
  victim_check_child(child);
  VICTIM_CHECK(shared[2] == 88 && copied == 1);
  victim_pass();
}
