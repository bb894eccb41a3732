// Threads with other ids, groups and capabilities than the rest.
#include <pthread.h>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void*) {
  VICTIM_CHECK(syscall(SYS_setresuid, -1, 65534, -1) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  uid_t real = 1, effective = 1, saved = 1;
  VICTIM_CHECK(getresuid(&real, &effective, &saved) == 0);
  VICTIM_CHECK(real == 0 && effective == 65534 && saved == 0);
  VICTIM_CHECK(open("root", O_WRONLY) == -1 && errno == EACCES);
  VICTIM_CHECK(syscall(SYS_setresuid, -1, 0, -1) == 0 && chown("root", 7, 7) == 0);
  return nullptr;
}

// For good: nothing of root's is left to it.
static void* live_as_nobody(void*) {
  const gid_t group = 4711;
  VICTIM_CHECK(syscall(SYS_setgroups, 1, &group) == 0);
  VICTIM_CHECK(syscall(SYS_setresgid, 65534, 65534, 65534) == 0);
  VICTIM_CHECK(syscall(SYS_setresuid, 65534, 65534, 65534) == 0);
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  gid_t groups[2] = {};
  VICTIM_CHECK(getgroups(2, groups) == 1 && groups[0] == 4711 && getegid() == 65534);
  VICTIM_CHECK(getuid() == 65534 && syscall(SYS_setresuid, -1, 0, -1) == -1);
  return nullptr;
}

int main() {
  if (geteuid() != 0) victim_skip("root");
  pthread_t thread, nobody;
  pthread_barrier_init(&step, nullptr, 3);
  VICTIM_CHECK(close(open("root", O_WRONLY | O_CREAT, 0600)) == 0);
  VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  VICTIM_CHECK(pthread_create(&nobody, nullptr, live_as_nobody, nullptr) == 0);
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(geteuid() == 0);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0 && pthread_join(nobody, nullptr) == 0);
  VICTIM_CHECK(getegid() == 0 && unlink("root") == 0);
  victim_pass();
}
