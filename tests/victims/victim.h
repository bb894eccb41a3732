// What a victim needs, and all of ours that it links: a program that sets up one kind of kernel
// state, says that it is ready, waits while something is done to it, and then looks whether all of
// the state is as it was and still works.
//
//     int main() {
//       const int fd = open("/etc/passwd", O_RDONLY);   // set up
//       VICTIM_CHECK(lseek(fd, 7, SEEK_SET) == 7);
//       victim_ready();
//       victim_wait();
//       VICTIM_CHECK(lseek(fd, 0, SEEK_CUR) == 7);      // verify
//       victim_pass();
//     }
//
// stdout carries lines of this protocol alone, stderr the reason of a failure:
//
//     victim -> runner   [refused: TEXT]... [loses: TEXT]   ready   awake   pass
//     runner -> victim                                          TERM     TERM
//
// SIGTERM is blocked from before main(), in every thread and child, and victim_wait() takes it: no
// handler, no descriptor. Between the two signals the runner compares what /proc tells. A victim
// that waits in its own way (a handler for SIGTERM, a call that is given a mask) needs only one,
// and does not say `awake`.
//
// It is started in an empty folder of its own, which has to be empty again when it ends, as there
// must be no process left. Its stdin is /dev/null, its descriptors are 0 to 2.
#pragma once

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// A process that has this state is refused, and TEXT is what is said why. The line goes when the
// refusal goes: then the victim has to travel.
#define VICTIM_REFUSED(text) victim_say("refused: " text "\n")
// The same where it is a plain user's, whom the kernel shows or gives less.
#define VICTIM_REFUSED_TO_PLAIN_USERS(text) \
  (geteuid() == 0 ? void(0) : victim_say("refused: " text "\n"))
// The same of `load` alone.
#define VICTIM_NOT_LOADED_BY_PLAIN_USERS(text) \
  (geteuid() == 0 ? void(0) : victim_say("refused by load: " text "\n"))
// The same of `move` alone.
#define VICTIM_REFUSED_BY_MOVE(text) victim_say("refused by move: " text "\n")
// The same of `telefork fork` alone: the original keeps it.
#define VICTIM_NOT_COPIED(text) victim_say("refused by fork: " text "\n")
// Of `move`, where it would be beside itself on one machine: what it has there only one can have.
#define VICTIM_REFUSED_BESIDE(text) victim_say("refused beside: " text "\n")
// And of `home`, when it is away.
#define VICTIM_REFUSED_BY_HOME(text) victim_say("refused by home: " text "\n")
#define VICTIM_REFUSED_BY_HOME_TO_PLAIN_USERS(text) \
  (geteuid() == 0 ? void(0) : VICTIM_REFUSED_BY_HOME(text))
// The same of what is only seen once the process is stopped: `check` does not know it.
#define VICTIM_REFUSED_ONCE_STOPPED(text) victim_say("refused once stopped: " text "\n")
// What is lost on the way without a refusal. TEXT stands in docs/limits.md, and the victim has to
// fail where it is moved.
#define VICTIM_LOSES(text) victim_say("loses: " text "\n")

// The same where it gets a pid namespace of its own, as beside itself on one machine.
#define VICTIM_LOSES_IN_NAMESPACE(text) victim_say("loses in a namespace: " text "\n")
// The same where it comes home.
#define VICTIM_LOSES_AT_HOME(text) victim_say("loses at home: " text "\n")
// What the process that has gone still holds while it may go on here, so that another one on the
// same machine cannot have it: TEXT is in what is said. Between two machines it travels.
#define VICTIM_CLASHES(text) victim_say("clashes: " text "\n")
// The same of what it holds in a file: on another machine too where that has the same files.
#define VICTIM_CLASHES_IN_FILES(text) victim_say("clashes in files: " text "\n")
// What stays at home when it goes to another machine, and is in its way when it comes back: TEXT is
// in what is said.
#define VICTIM_CLASHES_AT_HOME(text) victim_say("clashes at home: " text "\n")
// What it uses stays without a word: to another machine it is not taken. TEXT stands in
// docs/limits.md.
#define VICTIM_STAYS_NEAR(text) victim_say("stays near: " text "\n")

// What is said of it on stderr where it runs beside itself on one machine: TEXT is in it, and
// nothing else is said.
#define VICTIM_NOTED_BESIDE(text) victim_say("noted beside: " text "\n")

// Where the process that moves it is killed, once it stands still for that, it ends by SIGKILL.
// TEXT stands in docs/limits.md.
#define VICTIM_ENDS_WITH_SESSION(text) victim_say("ends with its session: " text "\n")

// The same as long as it is here: its deputy ends with 125.
#define VICTIM_ENDS_WITH_SESSION_HERE(text) victim_say("ends with its session here: " text "\n")

// Once it is ready it stops itself: the runner waits for that, and sends SIGCONT before the first
// SIGTERM, when it is stopped where it came to.
#define VICTIM_STOPS() victim_say("stops\n")

// What has to be true, or the victim has failed; shown with errno.
#define VICTIM_CHECK(condition)                                                         \
  ((condition) ? void(0)                                                                \
               : victim_fail("%s:%d: %s does not hold (errno: %s)", __FILE__, __LINE__, \
                             #condition, std::strerror(errno)))

// A call of write(2) each: whole lines, from any thread or child.
inline void victim_say(const char* line) {
  if (write(STDOUT_FILENO, line, std::strlen(line)) < 0) _exit(1);
}

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void victim_fail(const char* format,
                                                                           ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text - 1, format, arguments);
  va_end(arguments);
  std::strcat(text, "\n");
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) _exit(2);
  _exit(1);
}

[[noreturn]] inline void victim_pass() {
  victim_say("pass\n");
  _exit(0);
}

// This kernel, machine or user lacks what the victim is about.
[[noreturn]] inline void victim_skip(const char* feature) {
  char line[256];
  snprintf(line, sizeof line, "skip: %s\n", feature);
  victim_say(line);
  _exit(77);
}

inline sigset_t victim_signals(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  return set;
}

inline const bool victim_waits_for_sigterm = [] {
  const sigset_t term = victim_signals(SIGTERM);
  return sigprocmask(SIG_BLOCK, &term, nullptr) == 0;
}();

inline void victim_ready() { victim_say("ready\n"); }

// Until SIGTERM is there. A call that a stop and a continuation end with EINTR is made again.
inline void victim_await_signal() {
  const sigset_t term = victim_signals(SIGTERM);
  while (sigwaitinfo(&term, nullptr) != SIGTERM) {
    if (errno != EINTR) victim_fail("sigwaitinfo: %s", std::strerror(errno));
  }
}

inline void victim_wait() {
  victim_await_signal();
  victim_say("awake\n");
  victim_await_signal();
}

// Returns when task `tid` of process `pid` waits inside the system call with that number, or the
// kernel goes on with it after a stop (restart_syscall(2)).
inline void victim_await_syscall(pid_t pid, pid_t tid, long number) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task/%d/syscall", pid, tid);
  for (;;) {
    char text[256] = "";
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = file < 0 ? -1 : read(file, text, sizeof text - 1);
    close(file);
    if (file < 0) victim_fail("%s: %s", path, std::strerror(errno));
    char* end = text;
    const long now = n > 0 ? std::strtol(text, &end, 10) : 0;
    if (end != text && (now == number || now == SYS_restart_syscall)) return;
    sched_yield();
  }
}

// A child has ended as it should; children say themselves what is wrong.
inline void victim_check_child(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) != child) {
    if (errno != EINTR) victim_fail("waitpid: %s", std::strerror(errno));
  }
  if (status != 0) victim_fail("child %d has status %#x", child, status);
}
