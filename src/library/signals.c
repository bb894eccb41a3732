#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "library/internal.h"

// By syscall: libc's own functions leave out the two signals that it keeps for itself.
void tf_block_signals(tf_signals* old) {
  const tf_signals all = ~(tf_signals)0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, old, sizeof all);
}

void tf_restore_signals(const tf_signals* old) {
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, old, NULL, sizeof *old);
}
