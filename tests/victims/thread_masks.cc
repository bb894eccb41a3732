// Four threads with masks of their own, and signals that wait for one of them alone.
#include <pthread.h>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void* number) {
  const long which = reinterpret_cast<long>(number);
  const int signal = SIGRTMIN + static_cast<int>(which);
  const sigset_t mask = victim_signals(signal);
  VICTIM_CHECK(pthread_sigmask(SIG_BLOCK, &mask, nullptr) == 0);
  VICTIM_CHECK(pthread_sigqueue(pthread_self(), signal, sigval{static_cast<int>(which)}) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  sigset_t now;
  siginfo_t info{};
  const timespec at_once{};
  VICTIM_CHECK(pthread_sigmask(SIG_BLOCK, nullptr, &now) == 0);
  for (int i = 0; i < 4; ++i) VICTIM_CHECK(sigismember(&now, SIGRTMIN + i) == (i == which ? 1 : 0));
  VICTIM_CHECK(sigtimedwait(&mask, &info, &at_once) == signal);
  VICTIM_CHECK(info.si_value.sival_int == which && info.si_code == SI_QUEUE);
  return nullptr;
}

int main() {
  pthread_t threads[4];
  pthread_barrier_init(&step, nullptr, 5);
  for (long i = 0; i < 4; ++i) {
    VICTIM_CHECK(pthread_create(&threads[i], nullptr, live, reinterpret_cast<void*>(i)) == 0);
  }
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  for (pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
