/* telefork: fork(), across machines. The C interface of libtelefork.
 *
 *     pid_t pid = telefork_fork("node7");
 *     if (pid < 0) { fprintf(stderr, "%s\n", telefork_error()); return 1; }
 *     if (pid == 0) { compute(); _exit(0); }       // runs on node7
 *     waitpid(pid, &status, 0);                    // as with any child
 *
 * The contract of a fork:
 *
 * - It returns twice: 0 in the child, on the other machine; in the parent a real local pid. wait()
 *   on that pid gives the child's true status, kill() on it reaches the child, stopping and
 *   continuing are seen as with any child.
 * - Only the calling thread continues in the child, as with fork(). Handlers of pthread_atfork()
 *   run as with fork(), though with every signal blocked.
 * - The parent waits about as long as for a local fork(); the child travels while the parent runs.
 *   What can be known before the call returns (node, connection, keys, versions, CPU features,
 *   descriptors, mappings) is an error of the call. What fails later ends the pid with status 125
 *   and the reason on stderr; so do, in a process whose page tables are too many to look through
 *   meanwhile, memory protection keys, mseal'ed and droppable memory, and a few things as rare
 *   (docs/limits.md has the list). The child never runs twice, and never in both places.
 * - stdout and stderr go home, all of it before the status is delivered: as long as nobody reads a
 *   pipe that they end in, wait() waits. stdin is /dev/null in the child unless the options say
 *   otherwise. Other files are opened anew: their positions are the child's own.
 * - The child outlives the parent as any orphan does, unless the options say otherwise. It may
 *   fork, exec, and telefork again.
 *
 * Threads: every function may be called from any thread; calls that fork wait for each other.
 * From a signal handler that interrupted such a call they fail with EDEADLK. Such a handler must
 * return: after a longjmp(3) out of it no call of that thread works any more.
 * Descriptors: the first call opens one, close-on-exec and high-numbered, and keeps it for later
 * calls. Nothing else is kept, no thread is started, no signal is sent to the program.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

/* NOLINTBEGIN(readability-identifier-naming): a C interface has its own names. */

#ifdef __cplusplus
extern "C" {
#endif

#define TELEFORK_API __attribute__((visibility("default")))

/* Why a call failed, named by what the caller can do about it. The values never change. */
enum telefork_code {
  TELEFORK_OK = 0,
  TELEFORK_FAILED = 1,  /* anything else; the message says what */
  TELEFORK_USAGE = 2,   /* the call is wrong: node name, options */
  TELEFORK_REFUSED = 3, /* something of the process cannot move there; the message has the remedy */
  TELEFORK_UNREACHABLE = 4,  /* the node does not answer */
  TELEFORK_UNAUTHORISED = 5, /* the node does not trust us, or we do not trust it */
  TELEFORK_LOST = 6,         /* the connection or the peer was lost on the way */
  TELEFORK_CORRUPT = 7,      /* bytes from outside are damaged or not ours */
  TELEFORK_RESOURCES = 8,    /* memory, disk, pids or descriptors ran out, here or there */
  TELEFORK_UNSUPPORTED = 9,  /* this kernel or machine lacks what is needed */
  TELEFORK_GONE = 10         /* the process has ended */
};

/* How the memory travels. A mode asked for by name that cannot be had is refused. Automatic is lazy
   for a fork or a run_on of a process that is large, where that can be had, and else eager. */
enum telefork_mode {
  TELEFORK_MODE_AUTOMATIC = 0,
  TELEFORK_MODE_EAGER = 1, /* all of it before the child starts */
  TELEFORK_MODE_LAZY = 2,  /* the child starts at once and pulls what it touches */
  TELEFORK_MODE_LIVE = 3   /* sent in rounds while the original runs: not for a fork */
};

/* What becomes of a descriptor that cannot travel. */
enum telefork_fds {
  TELEFORK_FDS_REFUSE = 0,    /* the call fails and names each of them */
  TELEFORK_FDS_LEAVE_HOME = 1 /* the number stays taken in the child; read and write are EBADF */
};

/* What becomes of memory shared with processes that stay. */
enum telefork_shared {
  TELEFORK_SHARED_REFUSE = 0, /* the call fails and names it */
  TELEFORK_SHARED_COPY = 1    /* the child has a private copy of it */
};

enum telefork_standard_input {
  TELEFORK_STDIN_NOTHING = 0, /* /dev/null, but a regular file travels as any file does */
  /* Carried from home; the parent should no longer read it. Of a pipe to itself the process has the
   * other end too, which is a descriptor that cannot travel. */
  TELEFORK_STDIN_TAKE = 1
};

/* Begins with its own size, so that it can grow; set it by TELEFORK_OPTIONS_INIT. */
struct telefork_options {
  size_t size;         /* sizeof(struct telefork_options) */
  int mode;            /* enum telefork_mode */
  int fds;             /* enum telefork_fds */
  int shared;          /* enum telefork_shared */
  int standard_input;  /* enum telefork_standard_input */
  int die_with_parent; /* not 0: the child is killed when the parent process ends */
  /* Of a run_on, not 0: the next one to that node, with this too, sends what was written to here
   * since, and finds it without reading the rest. Until a call without it the kernel watches: the
   * first write to a page after a call takes a fault more, and a huge page that is written to is
   * split. Memory goes eagerly. */
  int repeat;
  int reserved[8]; /* 0 */
};

#define TELEFORK_OPTIONS_INIT                                \
  {                                                          \
    sizeof(struct telefork_options), 0, 0, 0, 0, 0, 0, { 0 } \
  }

/* Forks the calling process onto `node`: "local", "unix:PATH", "host[:port]",
 * "ssh://[user@]host"; at most 255 bytes. Returns 0 in the child, its pid in the parent, or -1 with
 * errno set, and then there is no child. */
TELEFORK_API pid_t telefork_fork(const char* node);

/* The same; NULL options mean TELEFORK_OPTIONS_INIT. Nothing is kept of either argument. */
TELEFORK_API pid_t telefork_fork_with(const char* node, const struct telefork_options* options);

/* Runs f(arg) on `node` and comes back: the whole process goes there, with all its threads, and
 * when f returns it comes home into itself, with everything that it changed there: memory,
 * mappings, threads begun and ended, signal state, working directory, umask, file positions.
 * Returns 0, or -1 with errno set; then nothing of f's doing is left here, and memory is as it was
 * at the call.
 *
 * - Meanwhile the process at home stands still; a signal that is sent to it is delivered there.
 *   Its pid and the ids of its threads are the same in both places. A thread that f began and that
 *   lives on has the id that it had there where the program may choose ids (root may) and that one
 *   is free here; else it gets another, and a recursive, error-checking, priority-inheriting or
 *   robust mutex that it holds when f returns is of no use any more. Others work.
 * - f that calls exit() ends the process at home too, with that status. A node that is lost, a
 *   crash there and what cannot come home are errors of the call.
 * - Children stay at home, and cannot be waited for there; f must have waited for its own.
 * - stdout and stderr go home; stdin is /dev/null there unless the options say otherwise. A
 *   descriptor that f opened and left open is opened here too, or the call fails and names it.
 * - A node may keep what the process had there, for a few minutes: the next call sends only what
 * has changed here since, where memory goes eagerly and over TLS, or the options say `repeat`.
 * - Calls may nest. One that another thread made there comes back before this one does.
 * - f must return: it may neither throw nor end its thread. (telefork::run_on brings exceptions
 *   home.)
 *
 * die_with_parent means nothing here. */
TELEFORK_API int telefork_run_on(const char* node, void (*f)(void* arg), void* arg);

TELEFORK_API int telefork_run_on_with(const char* node, void (*f)(void* arg), void* arg,
                                      const struct telefork_options* options);

/* Moves the calling process itself to `node`, as `telefork move` does from outside: with all its
 * threads, its children and all that has come of them, and what lives with these alone. Returns 0
 * there, once; or -1 here with errno set, and then all go on here as if nothing had been.
 *
 * - At home its deputy has the pid: the parent waits for it, stops, continues and kills it, and
 *   reads its output as before. The process has the same pid and the same ids of threads there, and
 *   so has each child.
 * - What has an end that stays (a pipe, a connection, memory that others share) refuses the call by
 *   name, all of it at once. There is no leaving at home.
 * - Standard streams are carried: stdin too, a terminal's while the deputy is in its foreground.
 *
 * Of the options only `mode` and `shared` mean something here. */
TELEFORK_API int telefork_move_to(const char* node);

TELEFORK_API int telefork_move_to_with(const char* node, const struct telefork_options* options);

/* Why the last failed call of this thread failed: one sentence without a final full stop, several
 * lines where several things are refused. "" before the first failure. Owned by the library, valid
 * until the thread's next call or its end. */
TELEFORK_API const char* telefork_error(void);

/* The same as enum telefork_code; TELEFORK_OK before the first failure. */
TELEFORK_API int telefork_error_code(void);

#ifdef __cplusplus
}
#endif

/* NOLINTEND(readability-identifier-naming) */
