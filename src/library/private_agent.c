// Starts an agent that is nobody's child: no SIGCHLD, nothing for the program's wait() to find.
//
//   program --clone--> launcher --clone--> exec telefork-agent --fd 3
//
// Both clones share the memory and suspend their parent until the exec (as posix_spawn does) and
// have no exit signal, so that wait() without __WALL does not see them. The launcher ends at once
// and is reaped here; the agent goes to init, or to the nearest subreaper, which may be the program
// itself. All signals are blocked meanwhile: a handler would run on the program's own memory.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
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
  char* stack_top;  // the agent's
  int error;        // of what failed; written by either clone
  pid_t agent;
};

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

static int run_launcher(void* argument) {
  struct launch* launch = argument;
  pid_t agent = clone(run_agent, launch->stack_top, CLONE_VM | CLONE_VFORK, launch);
  if (agent < 0) launch->error = errno;
  launch->agent = agent;
  if (agent > 0 && launch->error != 0) waitpid(agent, NULL, __WALL);
  _exit(0);
}

// 0, or the errno of what failed.
static int launch_agent(char* path, int socket, pid_t* agent) {
  char* stacks = mmap(NULL, 2 * kStackSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stacks == MAP_FAILED) return errno;
  struct launch launch = {path, socket, stacks + 2 * kStackSize, 0, 0};
  tf_signals mask;
  tf_block_signals(&mask);
  pid_t launcher = clone(run_launcher, stacks + kStackSize, CLONE_VM | CLONE_VFORK, &launch);
  if (launcher < 0) launch.error = errno;
  // Another thread's wait with __WALL may have been faster: ECHILD is as good.
  while (launcher > 0 && waitpid(launcher, NULL, __WALL) < 0 && errno == EINTR) {
  }
  tf_restore_signals(&mask);
  munmap(stacks, 2 * kStackSize);
  *agent = launch.agent;
  return launch.error;
}

int tf_start_private_agent(pid_t* agent) {
  static char path[4096];
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
