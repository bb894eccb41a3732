// A sleep that has its rest written elsewhere than over its request goes on: what it has slept
// before counts.
#include <pthread.h>

#include <atomic>
#include <csignal>
#include <ctime>

#include "victim.h"

static std::atomic<pid_t> sleeper;
static std::atomic<bool> is_over;
static timespec rest;

static void* sleep_long(void*) {
  const timespec asked{1000, 0};
  sleeper = static_cast<pid_t>(syscall(SYS_gettid));
  VICTIM_CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &asked, &rest) == EINTR);
  is_over = true;
  return nullptr;
}

int main() {
  signal(SIGUSR2, [](int) {});
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, sleep_long, nullptr) == 0);
  while (sleeper == 0) sched_yield();
  victim_await_syscall(getpid(), sleeper, SYS_clock_nanosleep);
  const timespec before{0, 300'000'000};
  VICTIM_CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &before, nullptr) == 0);
  victim_ready();
  victim_await_signal();
  // One that comes when it is only about to make the call again does not end that.
  while (!is_over) {
    VICTIM_CHECK(pthread_kill(thread, SIGUSR2) == 0);
    sched_yield();
  }
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  VICTIM_CHECK(rest.tv_sec < 999 || (rest.tv_sec == 999 && rest.tv_nsec <= 700'000'000));
  victim_pass();
}
