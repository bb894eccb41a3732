// What every call has in common: its request, its beginning and its end.
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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

bool tf_make_request(enum telefork_agent_op op, const char* node,
                     const struct telefork_options* given, struct telefork_agent_request* request) {
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
  request->op = op;
  request->tid = (int32_t)syscall(SYS_gettid);
  request->options.mode = options.mode;
  request->options.fds = options.fds;
  request->options.shared = options.shared;
  request->options.standard_input = options.standard_input;
  request->options.die_with_parent = options.die_with_parent != 0;
  request->options.repeat = options.repeat != 0;
  memcpy(request->node, node, length);
  return true;
}

bool tf_enter(int* cancel_state) {
  if (inside) {
    tf_set_error(TELEFORK_USAGE, EDEADLK, "called from a signal handler inside a telefork call");
    return false;
  }
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, cancel_state);
  inside = true;
  tf_lock();
  return true;
}

void tf_leave(bool holds_lock, int cancel_state) {
  if (holds_lock) tf_unlock();
  inside = false;
  pthread_setcancelstate(cancel_state, NULL);
}

struct telefork_verdict tf_verdict;

bool tf_announce(const struct tf_go_ahead* go, const tf_signals* mask) {
  memset(&tf_verdict, 0, sizeof tf_verdict);
  struct telefork_snapshot snapshot = {
      .header = {TELEFORK_MAGIC_SNAPSHOT, TELEFORK_ABI_VERSION, sizeof snapshot, 0},
      .pid = (int32_t)syscall(SYS_getpid),
      .tid = (int32_t)syscall(SYS_gettid),
      .signal_mask = *mask,
      .session_fd = go->session_fd,
      .agent_fd = go->agent_fd,
      .verdict_address = (uint64_t)(uintptr_t)&tf_verdict,
      .verdict_size = sizeof tf_verdict,
  };
  const char* bytes = (const char*)&snapshot;
  size_t sent = 0;
  while (sent < sizeof snapshot) {
    long n = syscall(SYS_sendto, go->session_fd, bytes + sent, sizeof snapshot - sent, MSG_NOSIGNAL,
                     NULL, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    sent += (size_t)n;
  }
  return true;
}

long tf_await_verdict(const struct tf_go_ahead* go) {
  long n;
  do {
    n = syscall(SYS_read, go->session_fd, &tf_verdict, sizeof tf_verdict);
  } while (n < 0 && errno == EINTR);
  uint32_t magic = ((volatile struct telefork_verdict*)&tf_verdict)->header.magic;
  if ((n == TELEFORK_RESUMED || n == TELEFORK_RETURNED) && magic == 0) return n;
  if (n != (long)sizeof tf_verdict || magic != TELEFORK_MAGIC_VERDICT) return 0;
  tf_verdict.message[sizeof tf_verdict.message - 1] = '\0';
  return n;
}

void tf_take_verdict(long n, const char* node, const char* what_now) {
  const struct telefork_verdict* verdict = &tf_verdict;
  if (n != (long)sizeof *verdict) {
    tf_set_error(TELEFORK_LOST, 0,
                 "%s: telefork's process here, which was to bring the answer, has ended: by "
                 "somebody, or for want of memory; %s",
                 node, what_now);
  } else {
    tf_set_error((enum telefork_code)verdict->code, verdict->error, "%s", verdict->message);
  }
}
