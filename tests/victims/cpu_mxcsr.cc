// The control register of vector arithmetic: rounding, and numbers that are too small become zero.
#include <xmmintrin.h>

#include "victim.h"

int main() {
  _mm_setcsr((_mm_getcsr() & ~_MM_ROUND_MASK) | _MM_ROUND_UP | _MM_FLUSH_ZERO_ON);
  const unsigned before = _mm_getcsr();
  victim_ready();
  victim_wait();
  VICTIM_CHECK(_mm_getcsr() == before);
  volatile float one = 1;
  volatile float three = 3;
  volatile float up = one / three;
  _mm_setcsr((_mm_getcsr() & ~_MM_ROUND_MASK) | _MM_ROUND_DOWN);
  volatile float down = one / three;
  VICTIM_CHECK(up > down);
  victim_pass();
}
