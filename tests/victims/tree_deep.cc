// Fifty processes, each the child of the one before, some with threads; the word goes down and the
// answer comes up.
#include <pthread.h>

#include "victim.h"

namespace {

constexpr int kDepth = 50;

void* wait_for_ever(void*) {
  for (;;) pause();
}

}  // namespace

int main() {
  int down[2], up[2], ready[2];
  VICTIM_CHECK(pipe(ready) == 0 && pipe(down) == 0 && pipe(up) == 0);
  const pid_t first = getpid();
  int depth = 0;
  pid_t child = 0;
  pid_t parent = 0;
  while (depth < kDepth) {
    parent = getpid();
    child = fork();
    VICTIM_CHECK(child >= 0);
    if (child != 0) break;
    ++depth;
  }
  if (getpid() != first) {
    pthread_t thread;
    if (depth % 10 == 0) {
      VICTIM_CHECK(pthread_create(&thread, nullptr, wait_for_ever, nullptr) == 0);
    }
    VICTIM_CHECK(write(ready[1], "x", 1) == 1);
    victim_await_signal();
    if (child != 0 && depth < kDepth) {
      VICTIM_CHECK(kill(child, SIGTERM) == 0);
      victim_check_child(child);
    }
    VICTIM_CHECK(getppid() == parent || depth < kDepth);
    VICTIM_CHECK(write(up[1], "y", 1) == 1);
    _exit(0);
  }
  char c;
  for (int i = 0; i < kDepth; ++i) VICTIM_CHECK(read(ready[0], &c, 1) == 1);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(kill(child, SIGTERM) == 0);
  victim_check_child(child);
  for (int i = 0; i < kDepth; ++i) VICTIM_CHECK(read(up[0], &c, 1) == 1 && c == 'y');
  victim_pass();
}
