// telefork_fork: asks the agent, forks, and lets the child wait to be carried away.
#include "telefork/telefork.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "library/internal.h"

// The snapshot's end at home. No formatting, no buffers: other threads' locks may be held for ever.
static _Noreturn void end_snapshot(const char* node, const char* message) {
  struct iovec parts[] = {
      {(void*)"telefork: fork to ", 18},
      {(void*)node, strlen(node)},
      {(void*)": ", 2},
      {(void*)message, strlen(message)},
      {(void*)"\n", 1},
  };
  syscall(SYS_writev, STDERR_FILENO, parts, sizeof parts / sizeof *parts);
  for (;;) syscall(SYS_exit_group, TELEFORK_FAILED_STATUS);
}

// The child of fork(), here the snapshot, there the guest. Everything of the library's is put in
// order before the read(), so that the guest has nothing left to do. Returns in the guest only.
static void travel(const struct tf_go_ahead* go, const char* node, const tf_signals* mask) {
  tf_forget_agent();
  tf_reset_lock();
  tf_let_trace(go->agent_pid);
  if (!tf_announce(go, mask)) end_snapshot(node, "the agent ended before it saw the process");
  long n = tf_await_verdict(go);
  if (n == TELEFORK_RESUMED) return;
  if (n != (long)sizeof tf_verdict) {
    end_snapshot(node, "the agent ended before the process was on its way");
  }
  end_snapshot(node, tf_verdict.message);
}

// Under the lock; in the child it is free.
static pid_t fork_through_agent(struct telefork_agent_request* request) {
  struct tf_go_ahead go;
  if (!tf_ask_agent(request, &go)) return -1;
  // Before the fork: no handler of the program may run in the snapshot, and a signal that is sent
  // to its pid waits there until the deputy reads it.
  tf_signals mask;
  tf_block_signals(&mask);
  pid_t pid = fork();
  if (pid == 0) {
    travel(&go, request->node, &mask);
    tf_restore_signals(&mask);
    return 0;
  }
  int error = errno;
  tf_let_nobody_trace();
  close(go.session_fd);
  tf_restore_signals(&mask);
  if (pid < 0) tf_set_error(TELEFORK_RESOURCES, error, "fork: %s", strerror(error));
  return pid;
}

pid_t telefork_fork_with(const char* node, const struct telefork_options* options) {
  struct telefork_agent_request request;
  int cancel_state;
  if (!tf_make_request(TELEFORK_OP_FORK, node, options, &request) || !tf_enter(&cancel_state)) {
    errno = tf_error_errno();
    return -1;
  }
  pid_t pid = fork_through_agent(&request);
  // In the child the lock is free.
  tf_leave(pid != 0, cancel_state);
  if (pid < 0) errno = tf_error_errno();
  return pid;
}

pid_t telefork_fork(const char* node) { return telefork_fork_with(node, NULL); }
