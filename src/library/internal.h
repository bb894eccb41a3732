// What the files of libtelefork share. The library lives in other people's processes: libc only, no
// thread, no allocation between fork and hand-over, and no state but the thread's error, one lock
// and the agent's socket. What is large is static and used under that lock: a thread may have a
// stack of PTHREAD_STACK_MIN.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <sys/types.h>

#include "abi/agent.h"
#include "telefork/telefork.h"

// The kernel's set of signals, bit n-1 for signal n: libc's hides two of them.
typedef uint64_t tf_signals;

// error.c: the thread's error. `error` 0 means the errno that fits the code.
void tf_set_error(enum telefork_code code, int error, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
// The errno of the last tf_set_error of this thread.
int tf_error_errno(void);

// lock.c: one lock that a child can use although another thread of its parent held it at the fork.
void tf_lock(void);
void tf_unlock(void);
// Whoever held it: for the snapshot, where no other thread is left.
void tf_reset_lock(void);

// signals.c: blocks every signal of the calling thread, those of libc itself included.
void tf_block_signals(tf_signals* old);
void tf_restore_signals(const tf_signals* old);

// What the agent answered.
struct tf_go_ahead {
  int session_fd;
  int agent_fd;     // the library's own socket, by number
  pid_t agent_pid;  // who sent the go-ahead, by the kernel; 0 where our pid namespace lacks it
  char lease[16];   // in words
};

// call.c. False: the error is set.
bool tf_make_request(enum telefork_agent_op op, const char* node,
                     const struct telefork_options* options,
                     struct telefork_agent_request* request);
// The calling thread has the lock and is not cancelled until it leaves.
bool tf_enter(int* cancel_state);
void tf_leave(bool holds_lock, int cancel_state);
// Whether this process is away for a run_on(), whose caller expects it back.
bool tf_is_in_call(void);
// Says on the session socket where this thread is about to wait. False: nobody is there any more.
bool tf_announce(const struct tf_go_ahead* go, const tf_signals* mask);
// Of tf_await_verdict(), for whoever has the lock, or is the snapshot.
extern struct telefork_verdict tf_verdict;
// What the read() there returns: TELEFORK_RESUMED or TELEFORK_RETURNED where this process is one
// that went on elsewhere, in which nothing has written to tf_verdict; its size with a verdict; 0
// for everything else.
long tf_await_verdict(const struct tf_go_ahead* go);
// Sets the error from what that returned, which was a verdict or nothing: then who was to give it
// has ended, which `what_now` says the rest of.
void tf_take_verdict(long n, const char* node, const char* what_now);

// agent_socket.c. All of it under the lock.
// Sends the request to the agent, connecting or starting one where there is none. False: the error
// is set.
bool tf_ask_agent(struct telefork_agent_request* request, struct tf_go_ahead* go);
// In a child, or on a node: the socket is not this process's. Closes nothing.
void tf_forget_agent(void);
// What was remembered of the socket, to be put back where the memory has been elsewhere since.
struct tf_agent_memory {
  bool open;
  int fd;
  pid_t tracer;  // the agent, or an ancestor of it; 0 where our pid namespace lacks it
  pid_t pid;
  uid_t user;
  dev_t device;
  ino_t inode;
};
struct tf_agent_memory tf_remember_agent(void);
void tf_recall_agent(const struct tf_agent_memory* memory);

// tracer.c: Yama lets only a process's ancestors trace it, and whom it names with their descendants
// (PR_SET_PTRACER). From the request on the agent looks into this process, and later a session
// process of its does; after the call nobody shall. 0: a process that cannot be named.
void tf_let_trace(pid_t pid);
void tf_let_nobody_trace(void);

// raw_syscall_*.c: -errno where it fails; errno itself stays as it is.
long tf_raw_syscall(long number, long a, long b, long c, long d, long e);

// private_agent.c: a socket to an agent of our own, or -1 and the error is set.
int tf_start_private_agent(pid_t* agent);

// helper_path.c: finds an executable of libexec/telefork, under the lock. False: the error is set.
bool tf_find_agent(char path[4096]);
