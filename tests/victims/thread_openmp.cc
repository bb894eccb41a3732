// A team of OpenMP in the middle of its work, at whose barriers it meets; the pool of its threads
// is there for the next one.
#include <omp.h>

#include "victim.h"

constexpr int kThreads = 4;
static volatile bool end = false;
static volatile long steps[kThreads];
static int begun = 0;

static void compute(int self) {
#pragma omp atomic
  ++begun;
  while (!end) steps[self] = steps[self] + 1;
}

int main() {
  long sum = 0;
#pragma omp parallel num_threads(kThreads) reduction(+ : sum)
  {
    if (omp_get_thread_num() == 0) {
      int others = 0;
      while (others < kThreads - 1) {
#pragma omp atomic read
        others = begun;
      }
      victim_ready();
      victim_wait();
      end = true;
    } else {
      compute(omp_get_thread_num());
    }
#pragma omp barrier
    sum += omp_get_num_threads();
  }
  VICTIM_CHECK(sum == kThreads * kThreads);
  for (int i = 1; i < kThreads; ++i) VICTIM_CHECK(steps[i] > 0);
  long squares = 0;
#pragma omp parallel for num_threads(kThreads) schedule(dynamic) reduction(+ : squares)
  for (long i = 0; i < 1000; ++i) squares += i * i;
  VICTIM_CHECK(squares == 332833500);
  victim_pass();
}
