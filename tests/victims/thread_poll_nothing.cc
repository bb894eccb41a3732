// Threads in poll, ppoll, select and pselect without a descriptor: only a signal ends them.
#include <poll.h>
#include <pthread.h>
#include <sys/select.h>

#include "victim.h"

static pid_t tids[4];
static const long kCalls[4] = {SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6};

static void on_signal(int) {}

static void* wait(void* number) {
  const long which = reinterpret_cast<long>(number);
  __atomic_store_n(&tids[which], static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
  const long result = which == 0   ? syscall(SYS_poll, nullptr, 0, -1)
                      : which == 1 ? ppoll(nullptr, 0, nullptr, nullptr)
                      : which == 2 ? syscall(SYS_select, 0, nullptr, nullptr, nullptr, nullptr)
                                   : pselect(0, nullptr, nullptr, nullptr, nullptr, nullptr);
  VICTIM_CHECK(result == -1 && errno == EINTR);
  return nullptr;
}

int main() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  VICTIM_CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  pthread_t threads[4];
  for (long i = 0; i < 4; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, wait, reinterpret_cast<void*>(i)) == 0);
    while (__atomic_load_n(&tids[i], __ATOMIC_ACQUIRE) == 0) sched_yield();
    victim_await_syscall(getpid(), tids[i], kCalls[i]);
  }
  victim_ready();
  victim_wait();
  for (int i = 0; i < 4; ++i) victim_await_syscall(getpid(), tids[i], kCalls[i]);
  for (pthread_t thread : threads) {
    VICTIM_CHECK(pthread_kill(thread, SIGUSR1) == 0 && pthread_join(thread, nullptr) == 0);
  }
  victim_pass();
}
