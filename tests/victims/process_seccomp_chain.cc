// Two filters, the second put on the first; what the first says of a call counts first.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "victim.h"

static void forbid(long number, unsigned error, unsigned flags) {
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program{4, code};
  VICTIM_CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

int main() {
  VICTIM_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  forbid(SYS_getpgrp, 77, 0);
  forbid(SYS_getppid, 78, SECCOMP_FILTER_FLAG_LOG);
  // What telefork itself has a process do.
  forbid(SYS_mmap, 79, 0);
  forbid(SYS_munmap, 80, 0);
  VICTIM_REFUSED_TO_PLAIN_USERS("it runs under seccomp");
  VICTIM_ENDS_WITH_SESSION("where that is killed the pid ends by SIGKILL");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(syscall(SYS_getpgrp) == -1 && errno == 77);
  VICTIM_CHECK(syscall(SYS_getppid) == -1 && errno == 78);
  VICTIM_CHECK(syscall(SYS_mmap, 0, 4096, 0, 0x22, -1, 0) == -1 && errno == 79);
  VICTIM_CHECK(syscall(SYS_munmap, 0, 4096) == -1 && errno == 80);
  victim_pass();
}
