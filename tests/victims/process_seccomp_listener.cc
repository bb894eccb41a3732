// A filter that asks a process, which may be anywhere.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "victim.h"

int main() {
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgrp, 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program{4, code};
  VICTIM_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  const long listener =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  VICTIM_CHECK(listener >= 0 && close(static_cast<int>(listener)) == 0);
  if (geteuid() == 0) {
    VICTIM_REFUSED_ONCE_STOPPED("its seccomp filter asks another process, which would stay");
  }
  VICTIM_REFUSED_TO_PLAIN_USERS("it runs under seccomp");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(prctl(PR_GET_SECCOMP) == SECCOMP_MODE_FILTER);
  victim_pass();
}
