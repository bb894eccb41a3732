// Threads in nanosleep, clock_nanosleep (relative and absolute), and one whose sleep is over soon.
#include <pthread.h>

#include <ctime>

#include "victim.h"

static pid_t tids[3];

static timespec later(clockid_t clock, long nanoseconds) {
  timespec now{};
  clock_gettime(clock, &now);
  now.tv_nsec += nanoseconds;
  now.tv_sec += now.tv_nsec / 1'000'000'000;
  now.tv_nsec %= 1'000'000'000;
  return now;
}

static void* sleep_a_while(void* number) {
  const long which = reinterpret_cast<long>(number);
  constexpr long kNanoseconds = 300'000'000;
  const timespec end = later(CLOCK_MONOTONIC, kNanoseconds);
  timespec rest{0, kNanoseconds};
  __atomic_store_n(&tids[which], static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
  if (which == 0) {
    while (nanosleep(&rest, &rest) != 0) VICTIM_CHECK(errno == EINTR);
  } else if (which == 1) {
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, &rest) != 0) {
    }
  } else {
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, nullptr) != 0) {
    }
  }
  const timespec now = later(CLOCK_MONOTONIC, 0);
  VICTIM_CHECK(now.tv_sec > end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec >= end.tv_nsec));
  return nullptr;
}

int main() {
  pthread_t threads[3];
  for (long i = 0; i < 3; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, sleep_a_while, reinterpret_cast<void*>(i)) ==
                 0);
  }
  for (pid_t& tid : tids) {
    while (__atomic_load_n(&tid, __ATOMIC_ACQUIRE) == 0) sched_yield();
  }
  victim_ready();
  victim_await_signal();  // only one: how many threads there still are by then is a matter of time
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
