// Starts an agent that is nobody's child: no SIGCHLD, nothing for the program's wait() to find.
//
//   program --clone--> launcher --clone--> exec telefork-agent --fd 3
//
// Both clones share the memory and suspend their parent until the exec (as posix_spawn does) and
// have no exit signal, so that wait() without __WALL does not see them. The launcher ends at once
// and is reaped here; the agent goes to init, or to the nearest subreaper. All signals are blocked
// meanwhile: a handler would run on the program's own memory.
//
// Where the program is what orphans go to, pid 1 or a subreaper, the agent would become its child,
// and an exec has given it SIGCHLD as its exit signal (execve(2)). There the launcher stays, as the
// agent's parent and subreaper, until the agent or the program has ended; it has not made an exec,
// and so wait() does not see it, nor, until the next launch, the zombie that is left of it. It does
// nothing but system calls by then: its thread-local storage is that of the thread that made it.
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "library/internal.h"

extern char** environ;

enum { kStackSize = 64 * 1024, kAgentFd = 3 };

struct launch {
  char* path;
  int socket;
  char* stack_top;            // the agent's
  int error;                  // of what failed; written by either clone
  pid_t agent;                // written by its launcher
  _Atomic uint32_t going_on;  // a futex; 0 when the agent runs, or will not
};

// A launcher that stays, and the memory that it runs on.
static struct {
  pid_t program;
  pid_t launcher;
  char* memory;
} staying;

// Every descriptor but the socket goes first: the table may be full.
static bool set_descriptors(int socket) {
  if (socket > 0) syscall(SYS_close_range, 0U, (unsigned)socket - 1, 0U);
  syscall(SYS_close_range, (unsigned)socket + 1, ~0U, 0U);
  if (socket != kAgentFd) {
    if (dup2(socket, kAgentFd) < 0) return false;
    close(socket);
  } else if (fcntl(socket, F_SETFD, 0) != 0) {
    return false;
  }
  return open("/dev/null", O_RDWR) == 0 && dup2(0, 1) == 1 && dup2(0, 2) == 2;
}

static int run_agent(void* argument) {
  struct launch* launch = argument;
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < _NSIG; ++signal) sigaction(signal, &action, NULL);
  setsid();
  if (set_descriptors(launch->socket) && chdir("/") == 0) {
    const tf_signals none = 0;
    tf_restore_signals(&none);
    char* arguments[] = {launch->path, (char*)"--fd", (char*)"3", NULL};
    execve(launch->path, arguments, environ);
  }
  launch->error = errno;
  _exit(127);
}

// Less than 0: the error is set, and nothing is left of it.
static pid_t clone_agent(struct launch* launch) {
  pid_t agent = clone(run_agent, launch->stack_top, CLONE_VM | CLONE_VFORK, launch);
  if (agent < 0) launch->error = errno;
  launch->agent = agent;
  if (launch->error == 0) return agent;
  if (agent > 0) waitpid(agent, NULL, __WALL);
  return -1;
}

static int run_launcher(void* argument) {
  clone_agent(argument);
  _exit(0);
}

// Its end releases the program too (CLONE_CHILD_CLEARTID).
static int run_staying_launcher(void* argument) {
  struct launch* launch = argument;
  setsid();
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  prctl(PR_SET_NAME, "telefork-agent", 0, 0, 0);  // by which a keeper knows (guest_tree.h)
  // The kernel reaps them: this process waits for the last alone.
  struct sigaction ignored;
  memset(&ignored, 0, sizeof ignored);
  ignored.sa_handler = SIG_IGN;
  sigaction(SIGCHLD, &ignored, NULL);
  pid_t agent = clone_agent(launch);
  if (agent < 0) _exit(0);
  (void)!chdir("/");
  syscall(SYS_close_range, 0U, ~0U, 0U);
  struct pollfd ends[2] = {{(int)syscall(SYS_pidfd_open, getppid(), 0), POLLIN, 0},
                           {(int)syscall(SYS_pidfd_open, agent, 0), POLLIN, 0}};
  atomic_store(&launch->going_on, 0);
  tf_raw_syscall(SYS_futex, (long)&launch->going_on, FUTEX_WAKE, 1, 0, 0);
  // From here on the program runs, and libc here would write to what is its thread's.
  while (ends[1].fd >= 0 && tf_raw_syscall(SYS_ppoll, (long)ends, 2, 0, 0, 0) == -EINTR) {
  }
  // An agent that was killed has left its sessions.
  while (ends[0].revents == 0 && tf_raw_syscall(SYS_wait4, -1, 0, __WALL, 0, 0) != -ECHILD) {
  }
  for (;;) tf_raw_syscall(SYS_exit_group, 0, 0, 0, 0, 0);
}

static void run_briefly(struct launch* launch, char* stack_top) {
  pid_t launcher = clone(run_launcher, stack_top, CLONE_VM | CLONE_VFORK, launch);
  if (launcher < 0) launch->error = errno;
  // Another thread's wait with __WALL may have been faster: ECHILD is as good.
  while (launcher > 0 && waitpid(launcher, NULL, __WALL) < 0 && errno == EINTR) {
  }
}

// False: it has ended.
static bool run_and_stay(struct launch* launch, char* stack_top) {
  atomic_store(&launch->going_on, 1);
  pid_t launcher = clone(run_staying_launcher, stack_top, CLONE_VM | CLONE_CHILD_CLEARTID, launch,
                         NULL, NULL, &launch->going_on);
  if (launcher < 0) {
    launch->error = errno;
    return false;
  }
  while (atomic_load(&launch->going_on) != 0) {
    syscall(SYS_futex, &launch->going_on, FUTEX_WAIT, 1, NULL, NULL, 0);
  }
  if (launch->error != 0) {
    while (waitpid(launcher, NULL, __WALL) < 0 && errno == EINTR) {
    }
    return false;
  }
  staying.program = getpid();
  staying.launcher = launcher;
  staying.memory = (char*)launch;
  return true;
}

// One whose agent lives still (the program has closed the socket, and has children) is forgotten.
static void reap_last_launcher(void) {
  if (staying.program == getpid() && waitpid(staying.launcher, NULL, WNOHANG | __WALL) > 0) {
    munmap(staying.memory, 2 * kStackSize);
  }
  staying.program = 0;
}

static bool is_reaper_of_orphans(void) {
  int subreaper = 0;
  return getpid() == 1 || (prctl(PR_GET_CHILD_SUBREAPER, &subreaper, 0, 0, 0) == 0 && subreaper);
}

// 0, or the errno of what failed.
static int launch_agent(char* path, int socket, pid_t* agent) {
  reap_last_launcher();
  char* memory = mmap(NULL, 2 * kStackSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) return errno;
  // At the far end of the launcher's stack: it may live longer than this function runs.
  struct launch* launch = (struct launch*)memory;
  *launch = (struct launch){.path = path, .socket = socket, .stack_top = memory + 2 * kStackSize};
  tf_signals mask;
  tf_block_signals(&mask);
  bool stays = false;
  if (is_reaper_of_orphans()) {
    stays = run_and_stay(launch, memory + kStackSize);
  } else {
    run_briefly(launch, memory + kStackSize);
  }
  tf_restore_signals(&mask);
  int error = launch->error;
  *agent = launch->agent;
  if (!stays) munmap(memory, 2 * kStackSize);
  return error;
}

// The agent would be the first process in there: its init. As long as there is none the link
// cannot be read (fs/nsfs.c: ns_get_name, kernel/pid_namespace.c: pidns_for_children_get).
static bool are_children_elsewhere(void) {
  char own[64];
  char children[64];
  // check_layers: allow proc: src/kernel is no part of the library
  ssize_t length = readlink("/proc/self/ns/pid", own, sizeof own);
  if (length <= 0) return false;
  // check_layers: allow proc: src/kernel is no part of the library
  ssize_t of_children = readlink("/proc/self/ns/pid_for_children", children, sizeof children);
  if (of_children < 0) return errno == ENOENT;
  return of_children != length || memcmp(own, children, (size_t)length) != 0;
}

int tf_start_private_agent(pid_t* agent) {
  static char path[4096];
  if (are_children_elsewhere()) {
    tf_set_error(TELEFORK_REFUSED, 0,
                 "refused: process %d: its children are in another pid namespace than it is "
                 "itself; have a child of it ask, which is inside",
                 (int)getpid());
    return -1;
  }
  if (!tf_find_agent(path)) return -1;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    tf_set_error(TELEFORK_RESOURCES, errno, "a socket for the agent: %s", strerror(errno));
    return -1;
  }
  // The agent's end too, so that it knows who asks whenever it begins to listen.
  int on = 1;
  setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  int error = launch_agent(path, ends[1], agent);
  close(ends[1]);
  if (error == 0) return ends[0];
  close(ends[0]);
  bool short_of = error == EAGAIN || error == ENOMEM || error == EMFILE || error == ENFILE;
  tf_set_error(short_of ? TELEFORK_RESOURCES : TELEFORK_FAILED, error, "starting %s: %s", path,
               strerror(error));
  return -1;
}
