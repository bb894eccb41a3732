// telefork_run_on: the whole process goes to the node, runs f there, and comes home into itself.
//
//   home                     node                        home
//   read(session) waits -->  "returns" TELEFORK_RESUMED
//                            f(arg)
//                            read(session) waits     -->  "returns" TELEFORK_RETURNED
//
// or, where it did not come to that, the first read() returns the verdict, at home, in the memory
// that the process had when it called.
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "library/internal.h"

// Of the outermost call that this process is inside of: what it forks there is in none.
static _Atomic pid_t called_as;

// How many calls this process is inside of, by all its threads: each goes from where the one before
// has brought it, and it must come home the same way.
static _Atomic uint32_t depth;

bool tf_is_in_call(void) { return atomic_load(&depth) != 0 && atomic_load(&called_as) == getpid(); }

static void set_depth(uint32_t value) {
  atomic_store(&depth, value);
  syscall(SYS_futex, &depth, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

// Until the calls that other threads began there have come back.
static void await_depth(uint32_t value) {
  for (;;) {
    uint32_t seen = atomic_load(&depth);
    if (seen == value) return;
    syscall(SYS_futex, &depth, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
  }
}

static void say(const char* why) {
  struct iovec parts[] = {
      {(void*)"telefork: run_on: ", 18}, {(void*)why, strlen(why)}, {(void*)"\n", 1}};
  syscall(SYS_writev, STDERR_FILENO, parts, sizeof parts / sizeof *parts);
}

// What has no way home, and was never to go there.
static _Noreturn void end_here(const char* why) {
  say(why);
  for (;;) syscall(SYS_exit_group, TELEFORK_FAILED_STATUS);
}

// What had one, and has it no more. An exit would end the program at home as well; of a process
// that was killed the call there becomes an error.
static _Noreturn void die_here(const char* why) {
  say(why);
  for (;;) syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
}

// 0 also where nobody is there to wait for.
static long wait_in_session(const struct tf_go_ahead* go, const tf_signals* mask) {
  return tf_announce(go, mask) ? tf_await_verdict(go) : 0;
}

// On the node. `cancel_state` becomes what f left.
static void run_there(void (*f)(void*), void* arg, tf_signals* mask, int* cancel_state) {
  uint32_t mine = atomic_load(&depth) + 1;
  struct tf_agent_memory home = tf_remember_agent();
  pid_t pid = getpid();
  tf_forget_agent();
  set_depth(mine);
  atomic_store(&called_as, pid);
  tf_restore_signals(mask);
  tf_leave(true, *cancel_state);
  f(arg);
  if (getpid() != pid) end_here("a process that was forked there has no call to return from");
  // Cannot fail: this thread is not inside a call.
  for (;;) {
    await_depth(mine);
    if (!tf_enter(cancel_state)) die_here(telefork_error());
    if (atomic_load(&depth) == mine) break;
    tf_leave(true, *cancel_state);
  }
  tf_block_signals(mask);
  tf_recall_agent(&home);
}

// Without a verdict the kernel has let this process go on, by its stub: at once where f had not
// begun, else when nothing of the call could run any more.
static void say_what_became_of_it(const char* node, const struct tf_go_ahead* go, long n) {
  char what_now[160];
  snprintf(what_now, sizeof what_now,
           "nothing of the call runs there now (where f had begun, its lease of %s is over), and "
           "memory here is as it was at the call",
           go->lease);
  tf_take_verdict(n, node, what_now);
}

// Under the lock.
static int run_through_agent(struct telefork_agent_request* request, void (*f)(void*), void* arg,
                             int* cancel_state) {
  struct tf_go_ahead go;
  if (!tf_ask_agent(request, &go)) return -1;
  tf_let_trace(go.agent_pid);
  // No handler of this thread's may run between here and there.
  tf_signals mask;
  tf_block_signals(&mask);
  int result = 0;
  long n = wait_in_session(&go, &mask);
  if (n == TELEFORK_RESUMED) {
    run_there(f, arg, &mask, cancel_state);
    go.agent_fd = -1;
    n = wait_in_session(&go, &mask);
    if (n != TELEFORK_RETURNED) die_here("the way home is lost");
    set_depth(atomic_load(&depth) - 1);
  } else {
    say_what_became_of_it(request->node, &go, n);
    result = -1;
  }
  close(go.session_fd);
  tf_let_nobody_trace();
  tf_restore_signals(&mask);
  return result;
}

int telefork_run_on_with(const char* node, void (*f)(void*), void* arg,
                         const struct telefork_options* options) {
  struct telefork_agent_request request;
  int cancel_state;
  if (f == NULL) tf_set_error(TELEFORK_USAGE, EINVAL, "there is no function to run");
  if (f == NULL || !tf_make_request(TELEFORK_OP_RUN_ON, node, options, &request) ||
      !tf_enter(&cancel_state)) {
    errno = tf_error_errno();
    return -1;
  }
  int result = run_through_agent(&request, f, arg, &cancel_state);
  tf_leave(true, cancel_state);
  if (result < 0) errno = tf_error_errno();
  return result;
}

int telefork_run_on(const char* node, void (*f)(void*), void* arg) {
  return telefork_run_on_with(node, f, arg, NULL);
}
