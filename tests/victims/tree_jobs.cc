// What a shell and its jobs look like: groups whose leader has ended and is gone, a session whose
// leader is gone, children of before a setsid() and of after it.
#include <sys/prctl.h>

#include "victim.h"

namespace {

int told[2];

void tell() {
  if (write(told[1], "x", 1) != 1) _exit(9);
}

void hear(int times) {
  char c;
  for (int i = 0; i < times; ++i) VICTIM_CHECK(read(told[0], &c, 1) == 1);
}

// What the first process has, wherever it is by now.
constexpr pid_t kOfFirst = -1;
pid_t first;

bool is(pid_t id, pid_t expected, pid_t of_first) {
  return id == (expected == kOfFirst ? of_first : expected);
}

// Ends when it is told to, with 0 if it is what it was.
[[noreturn]] void stay(pid_t group, pid_t session, pid_t parent) {
  tell();
  victim_await_signal();
  const bool same = is(getpgrp(), group, getpgid(first)) && is(getsid(0), session, getsid(first));
  _exit(same && getppid() == parent ? 0 : 1);
}

}  // namespace

int main() {
  VICTIM_CHECK(pipe(told) == 0 && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  const pid_t self = first = getpid();
  // a | b, of which a has ended and was waited for.
  const pid_t a = fork();
  if (a == 0) {
    setpgid(0, 0);
    victim_await_signal();
    _exit(0);
  }
  setpgid(a, a);
  const pid_t b = fork();
  if (b == 0) {
    setpgid(0, a);
    stay(a, kOfFirst, self);
  }
  hear(1);
  VICTIM_CHECK(kill(a, SIGTERM) == 0);
  victim_check_child(a);
  // A daemon in a session whose leader has ended: an orphan, which is this process's by now.
  pid_t daemon = 0;
  int number[2];
  VICTIM_CHECK(pipe(number) == 0);
  const pid_t leader = fork();
  if (leader == 0) {
    setsid();
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      const pid_t session = getsid(0);
      while (getppid() != self) sched_yield();
      stay(session, session, self);
    }
    _exit(write(number[1], &grandchild, sizeof grandchild) == sizeof grandchild ? 0 : 1);
  }
  victim_check_child(leader);
  VICTIM_CHECK(read(number[0], &daemon, sizeof daemon) == sizeof daemon);
  hear(1);
  // One that has had a child before it began a session, and one after that.
  const pid_t late = fork();
  pid_t grandchildren[2];
  if (late == 0) {
    const pid_t own = getpid();
    if ((grandchildren[0] = fork()) == 0) stay(kOfFirst, kOfFirst, own);
    VICTIM_CHECK(setsid() == own);
    if ((grandchildren[1] = fork()) == 0) {
      setpgid(0, 0);
      stay(getpid(), own, own);
    }
    tell();
    victim_await_signal();
    VICTIM_CHECK(getsid(0) == own && getpgrp() == own);
    for (pid_t grandchild : grandchildren) VICTIM_CHECK(kill(grandchild, SIGTERM) == 0);
    for (pid_t grandchild : grandchildren) victim_check_child(grandchild);
    _exit(0);
  }
  hear(3);
  close(number[0]);
  close(number[1]);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(killpg(a, SIGTERM) == 0);
  victim_check_child(b);
  VICTIM_CHECK(kill(late, SIGTERM) == 0);
  victim_check_child(late);
  VICTIM_CHECK(getsid(daemon) == leader && killpg(leader, SIGTERM) == 0);
  victim_check_child(daemon);
  VICTIM_CHECK(waitpid(-1, nullptr, 0) == -1 && errno == ECHILD);
  victim_pass();
}
