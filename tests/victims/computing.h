// For victims with a thread that computes all the while, in registers that nothing else looks
// after: it sets `victim_computes` when it has begun, goes on until `victim_ends`, and checks what
// it has.
#pragma once

#include <pthread.h>

#include "victim.h"

inline volatile char victim_computes = 0;
inline volatile char victim_ends = 0;

[[noreturn]] inline void victim_pass_computing(void* (*compute)(void*)) {
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, compute, nullptr) == 0);
  while (victim_computes == 0) sched_yield();
  victim_ready();
  victim_wait();
  victim_ends = 1;
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
