// The heap of brk(2): grown, used, shrunk in part, and grown again afterwards.
#include "victim.h"

int main() {
  auto* start = static_cast<char*>(sbrk(0));
  VICTIM_CHECK(sbrk(64 * 4096) == start);
  for (int i = 0; i < 64; ++i) start[i * 4096] = static_cast<char>(i + 1);
  VICTIM_CHECK(brk(start + 40 * 4096 + 123) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(sbrk(0) == start + 40 * 4096 + 123);
  for (int i = 0; i < 40; ++i) VICTIM_CHECK(start[i * 4096] == i + 1);
  VICTIM_CHECK(sbrk(32 * 4096) == start + 40 * 4096 + 123);
  VICTIM_CHECK(start[60 * 4096] == 0);
  start[60 * 4096] = 1;
  VICTIM_CHECK(brk(start) == 0 && sbrk(0) == start);
  victim_pass();
}
