// A filter of system calls: what it forbids stays forbidden.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "victim.h"

int main() {
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgrp, 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program{4, code};
  VICTIM_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  VICTIM_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
  VICTIM_REFUSED_TO_PLAIN_USERS("it runs under seccomp");
  VICTIM_ENDS_WITH_SESSION("where that is killed the pid ends by SIGKILL");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(syscall(SYS_getpgrp) == -1 && errno == 77);
  VICTIM_CHECK(prctl(PR_GET_SECCOMP) == SECCOMP_MODE_FILTER);
  victim_pass();
}
