// Threads in sigsuspend, with a mask for that time, in pause, and in sigwait.
#include <pthread.h>

#include "victim.h"

static pid_t tids[3];
static thread_local int handled = 0;

static void on_signal(int) { handled = handled + 1; }

static void wait_suspended() {
  const sigset_t blocked = victim_signals(SIGUSR1);
  VICTIM_CHECK(pthread_sigmask(SIG_BLOCK, &blocked, nullptr) == 0);
  sigset_t meanwhile = victim_signals(SIGTERM);
  VICTIM_CHECK(sigsuspend(&meanwhile) == -1 && errno == EINTR && handled == 1);
  VICTIM_CHECK(pthread_sigmask(SIG_BLOCK, nullptr, &meanwhile) == 0);
  VICTIM_CHECK(sigismember(&meanwhile, SIGUSR1) && !sigismember(&meanwhile, SIGUSR2));
}

static void wait_for_signal() {
  const sigset_t set = victim_signals(SIGUSR1);
  VICTIM_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  int signal = 0;
  VICTIM_CHECK(sigwait(&set, &signal) == 0 && signal == SIGUSR1 && handled == 0);
}

static void* wait(void* number) {
  const long which = reinterpret_cast<long>(number);
  __atomic_store_n(&tids[which], static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
  if (which == 0) wait_suspended();
  if (which == 1) VICTIM_CHECK(pause() == -1 && errno == EINTR && handled == 1);
  if (which == 2) wait_for_signal();
  return nullptr;
}

int main() {
  constexpr long kCalls[] = {SYS_rt_sigsuspend, SYS_pause, SYS_rt_sigtimedwait};
  struct sigaction action {};
  action.sa_handler = on_signal;
  VICTIM_CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  pthread_t threads[3];
  for (long i = 0; i < 3; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, wait, reinterpret_cast<void*>(i)) == 0);
    while (__atomic_load_n(&tids[i], __ATOMIC_ACQUIRE) == 0) sched_yield();
    victim_await_syscall(getpid(), tids[i], kCalls[i]);
  }
  victim_ready();
  // Between the stop and the same call made again /proc shows the masks of no call.
  victim_await_signal();
  for (int i = 0; i < 3; ++i) victim_await_syscall(getpid(), tids[i], kCalls[i]);
  victim_say("awake\n");
  victim_await_signal();
  for (pthread_t thread : threads) {
    VICTIM_CHECK(pthread_kill(thread, SIGUSR1) == 0 && pthread_join(thread, nullptr) == 0);
  }
  victim_pass();
}
