// A filter that one thread has put on all of them (TSYNC).
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>

#include "victim.h"

static pthread_barrier_t step;

static void* live(void*) {
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(syscall(SYS_getpgrp) == -1 && errno == 78);
  return nullptr;
}

int main() {
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgrp, 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 78),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program{4, code};
  pthread_t thread;
  pthread_barrier_init(&step, nullptr, 2);
  VICTIM_CHECK(pthread_create(&thread, nullptr, live, nullptr) == 0);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  VICTIM_CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) ==
               0);
  VICTIM_REFUSED_BY_HOME("it runs under seccomp, which cannot be restored yet");
  VICTIM_REFUSED_TO_PLAIN_USERS("it runs under seccomp");
  VICTIM_ENDS_WITH_SESSION("where that is killed the pid ends by SIGKILL");
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0 && syscall(SYS_getpgrp) == -1);
  victim_pass();
}
