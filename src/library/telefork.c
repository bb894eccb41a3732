// telefork_fork: asks the agent, forks, and lets the child wait to be carried away.
#include "telefork/telefork.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "library/internal.h"

// Set while this thread is inside: a signal handler must not wait for its own thread's lock.
static _Thread_local bool inside;

static bool has_text_after(const unsigned char* bytes, size_t from, size_t to) {
  for (size_t i = from; i < to; ++i) {
    if (bytes[i] != 0) return true;
  }
  return false;
}

// Copies what both sides know of the options. A later caller's longer struct is taken as long as it
// asks for nothing that we do not know.
static bool read_options(const struct telefork_options* given, struct telefork_options* options) {
  memset(options, 0, sizeof *options);
  if (given == NULL) return true;
  size_t size = given->size;
  if (size < sizeof given->size || size > 65536 ||
      (size > sizeof *options &&
       has_text_after((const unsigned char*)given, sizeof *options, size))) {
    tf_set_error(TELEFORK_USAGE, EINVAL,
                 "the options are not of this library's version (%zu bytes, it knows %zu)", size,
                 sizeof *options);
    return false;
  }
  memcpy(options, given, size < sizeof *options ? size : sizeof *options);
  bool known =
      options->mode >= TELEFORK_MODE_AUTOMATIC && options->mode <= TELEFORK_MODE_LIVE &&
      (options->fds | options->shared | options->standard_input) >> 1 == 0 &&
      !has_text_after((const unsigned char*)options->reserved, 0, sizeof options->reserved);
  if (!known) tf_set_error(TELEFORK_USAGE, EINVAL, "an option has a value that is not known");
  return known;
}

static bool make_request(const char* node, const struct telefork_options* given,
                         struct telefork_agent_request* request) {
  memset(request, 0, sizeof *request);
  size_t length = node == NULL ? 0 : strnlen(node, sizeof request->node);
  if (length == 0 || length == sizeof request->node) {
    tf_set_error(TELEFORK_USAGE, EINVAL, "the node's name must have 1 to %zu bytes",
                 sizeof request->node - 1);
    return false;
  }
  struct telefork_options options;
  if (!read_options(given, &options)) return false;
  request->header.magic = TELEFORK_MAGIC_REQUEST;
  request->header.version = TELEFORK_ABI_VERSION;
  request->header.size = sizeof *request;
  request->op = TELEFORK_OP_FORK;
  request->tid = (int32_t)syscall(SYS_gettid);
  request->options.mode = options.mode;
  request->options.fds = options.fds;
  request->options.shared = options.shared;
  request->options.standard_input = options.standard_input;
  request->options.die_with_parent = options.die_with_parent != 0;
  memcpy(request->node, node, length);
  return true;
}

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

static bool send_snapshot(const struct telefork_snapshot* snapshot) {
  const char* bytes = (const char*)snapshot;
  size_t sent = 0;
  while (sent < sizeof *snapshot) {
    long n = syscall(SYS_sendto, snapshot->session_fd, bytes + sent, sizeof *snapshot - sent,
                     MSG_NOSIGNAL, NULL, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    sent += (size_t)n;
  }
  return true;
}

// The child of fork(), here the snapshot, there the guest. Everything of the library's is put in
// order before the read(), so that the guest has nothing left to do. Returns in the guest only.
static void travel(const struct tf_go_ahead* go, const char* node, const tf_signals* mask) {
  tf_forget_agent();
  tf_reset_lock();
  // EINVAL where there is no Yama.
  if (go->agent_pid > 0) syscall(SYS_prctl, PR_SET_PTRACER, (long)go->agent_pid, 0L, 0L, 0L);

  struct telefork_verdict verdict;
  memset(&verdict, 0, sizeof verdict);
  struct telefork_snapshot snapshot = {
      .header = {TELEFORK_MAGIC_SNAPSHOT, TELEFORK_ABI_VERSION, sizeof snapshot, 0},
      .pid = (int32_t)syscall(SYS_getpid),
      .tid = (int32_t)syscall(SYS_gettid),
      .signal_mask = *mask,
      .session_fd = go->session_fd,
      .agent_fd = go->agent_fd,
      .verdict_address = (uint64_t)(uintptr_t)&verdict,
      .verdict_size = sizeof verdict,
  };
  if (!send_snapshot(&snapshot)) end_snapshot(node, "the agent ended before it saw the process");
  long n;
  do {
    n = syscall(SYS_read, go->session_fd, &verdict, sizeof verdict);
  } while (n < 0 && errno == EINTR);
  // In the guest no byte was read: nothing has written to the verdict.
  if (n == TELEFORK_RESUMED && ((volatile struct telefork_verdict*)&verdict)->header.magic == 0) {
    return;
  }
  if (n != (long)sizeof verdict || verdict.header.magic != TELEFORK_MAGIC_VERDICT) {
    end_snapshot(node, "the agent ended before the process was on its way");
  }
  verdict.message[sizeof verdict.message - 1] = '\0';
  end_snapshot(node, verdict.message);
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
  close(go.session_fd);
  tf_restore_signals(&mask);
  if (pid < 0) tf_set_error(TELEFORK_RESOURCES, error, "fork: %s", strerror(error));
  return pid;
}

pid_t telefork_fork_with(const char* node, const struct telefork_options* options) {
  struct telefork_agent_request request;
  if (!make_request(node, options, &request)) {
    errno = tf_error_errno();
    return -1;
  }
  if (inside) {
    tf_set_error(TELEFORK_USAGE, EDEADLK, "called from a signal handler inside a telefork call");
    errno = EDEADLK;
    return -1;
  }
  int cancel_state;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
  inside = true;
  tf_lock();
  pid_t pid = fork_through_agent(&request);
  if (pid != 0) tf_unlock();
  inside = false;
  pthread_setcancelstate(cancel_state, NULL);
  if (pid < 0) errno = tf_error_errno();
  return pid;
}

pid_t telefork_fork(const char* node) { return telefork_fork_with(node, NULL); }
