// The first thread has ended, and the others live on.
#include <pthread.h>

#include "victim.h"

static pthread_t leader;

static void* live_on(void*) {
  VICTIM_CHECK(pthread_join(leader, nullptr) == 0);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
  for (char text[256] = ""; std::strstr(text, ") Z ") == nullptr;) {
    const int file = open(path, O_RDONLY);
    const ssize_t n = read(file, text, sizeof text - 1);
    text[n < 0 ? 0 : n] = '\0';
    close(file);
  }
  VICTIM_REFUSED("its first thread has ended, and the others live on");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(syscall(SYS_gettid) != getpid());
  victim_pass();
}

int main() {
  pthread_t thread;
  leader = pthread_self();
  VICTIM_CHECK(pthread_create(&thread, nullptr, live_on, nullptr) == 0);
  pthread_exit(nullptr);
}
