// Stopped by a signal, with a thread that waits: it goes on by SIGCONT, and only then.
#include <pthread.h>

#include "victim.h"

namespace {

volatile sig_atomic_t continued = 0;
void on_continued(int) { continued = continued + 1; }

pid_t sleeper = 0;
pthread_barrier_t begun;

// Whoever is woken first goes on first: that the signal has been taken by then holds for one
// thread.
void* sleep_on(void*) {
  sigset_t others;
  sigemptyset(&others);
  sigaddset(&others, SIGCONT);
  VICTIM_CHECK(pthread_sigmask(SIG_BLOCK, &others, nullptr) == 0);
  sleeper = gettid();
  pthread_barrier_wait(&begun);
  for (;;) pause();
}

}  // namespace

int main() {
  pthread_t thread;
  pthread_barrier_init(&begun, nullptr, 2);
  VICTIM_CHECK(pthread_create(&thread, nullptr, sleep_on, nullptr) == 0);
  pthread_barrier_wait(&begun);
  victim_await_syscall(getpid(), sleeper, SYS_pause);
  struct sigaction action {};
  action.sa_handler = on_continued;
  action.sa_flags = SA_RESTART;
  VICTIM_CHECK(sigaction(SIGCONT, &action, nullptr) == 0);
  VICTIM_STOPS();
  victim_ready();
  VICTIM_CHECK(raise(SIGSTOP) == 0);
  VICTIM_CHECK(continued == 1);
  victim_wait();
  VICTIM_CHECK(continued == 1);
  victim_pass();
}
