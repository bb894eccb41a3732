// Timers that belong to one thread: each signal comes to the thread that made the timer.
#include <pthread.h>

#include <ctime>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void*) {
  const sigset_t set = victim_signals(SIGRTMIN);
  const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGRTMIN;
  event.sigev_value.sival_int = tid;
  event._sigev_un._tid = tid;
  timer_t timer;
  VICTIM_CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  const itimerspec soon{{0, 0}, {0, 1}};
  siginfo_t info{};
  VICTIM_CHECK(timer_settime(timer, 0, &soon, nullptr) == 0);
  VICTIM_CHECK(sigwaitinfo(&set, &info) == SIGRTMIN && info.si_value.sival_int == tid);
  VICTIM_CHECK(timer_delete(timer) == 0);
  return nullptr;
}

int main() {
  const sigset_t set = victim_signals(SIGRTMIN);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  pthread_t threads[4];
  pthread_barrier_init(&step, nullptr, 5);
  for (pthread_t& thread : threads) {
    VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  }
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
