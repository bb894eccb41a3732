// Who may trace this process, where Yama is: Documentation/admin-guide/LSM/Yama.rst. Elsewhere the
// kernel knows no such option (EINVAL), and nothing needs to be done.
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "library/internal.h"

void tf_let_trace(pid_t pid) {
  if (pid > 0) syscall(SYS_prctl, PR_SET_PTRACER, (long)pid, 0L, 0L, 0L);
}

void tf_let_nobody_trace(void) { syscall(SYS_prctl, PR_SET_PTRACER, 0L, 0L, 0L, 0L); }
