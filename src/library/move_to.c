// telefork_move_to: the whole process goes to the node and goes on there. It begins as a run_on
// does; at home the deputy takes its place.
#include <errno.h>
#include <unistd.h>

#include "library/internal.h"

// Under the lock, which goes with it.
static int move_through_agent(struct telefork_agent_request* request) {
  struct tf_go_ahead go;
  if (!tf_ask_agent(request, &go)) return -1;
  tf_let_trace(go.agent_pid);
  // No handler of this thread's may run between here and there.
  tf_signals mask;
  tf_block_signals(&mask);
  long n = tf_announce(&go, &mask) ? tf_await_verdict(&go) : 0;
  int result = 0;
  if (n == TELEFORK_RESUMED) {
    // Both sockets have stayed at home.
    tf_forget_agent();
  } else {
    tf_take_verdict(n, request->node, "the process is here as it was");
    close(go.session_fd);
    result = -1;
  }
  tf_let_nobody_trace();
  tf_restore_signals(&mask);
  return result;
}

int telefork_move_to_with(const char* node, const struct telefork_options* options) {
  struct telefork_agent_request request;
  int cancel_state;
  if (!tf_make_request(TELEFORK_OP_MOVE_TO, node, options, &request) || !tf_enter(&cancel_state)) {
    errno = tf_error_errno();
    return -1;
  }
  int result = -1;
  if (request.options.fds != TELEFORK_FDS_REFUSE) {
    tf_set_error(TELEFORK_USAGE, EINVAL, "what moves leaves no descriptor at home");
  } else if (tf_is_in_call()) {
    tf_set_error(TELEFORK_USAGE, EINVAL,
                 "the process is away for a call of run_on, and is to come home from it first");
  } else {
    result = move_through_agent(&request);
  }
  tf_leave(true, cancel_state);
  if (result < 0) errno = tf_error_errno();
  return result;
}

int telefork_move_to(const char* node) { return telefork_move_to_with(node, NULL); }
