// A parent that is held in vfork(2) by its child.
#include <pthread.h>

#include "victim.h"

static void* hold_in_vfork(void* child) {
  const pid_t pid = vfork();
  if (pid == 0) {
    __atomic_store_n(static_cast<pid_t*>(child), static_cast<pid_t>(syscall(SYS_getpid)),
                     __ATOMIC_RELEASE);
    const sigset_t term = victim_signals(SIGTERM);
    while (syscall(SYS_rt_sigtimedwait, &term, nullptr, nullptr, 8) != SIGTERM) {
    }
    _exit(0);
  }
  victim_check_child(pid);
  return nullptr;
}

int main() {
  static pid_t child = 0;
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, hold_in_vfork, &child) == 0);
  while (__atomic_load_n(&child, __ATOMIC_ACQUIRE) == 0) sched_yield();
  VICTIM_REFUSED("it shares its memory with process");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(kill(child, SIGTERM) == 0 && pthread_join(thread, nullptr) == 0);
  victim_pass();
}
