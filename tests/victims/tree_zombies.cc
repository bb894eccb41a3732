// Children that have ended in every way, and have not been waited for; their end is told once.
#include <sys/prctl.h>
#include <sys/resource.h>

#include "victim.h"

namespace {

volatile sig_atomic_t told = 0;
void on_child(int) { told = told + 1; }

}  // namespace

int main() {
  const rlimit none{0, 0};
  VICTIM_CHECK(setrlimit(RLIMIT_CORE, &none) == 0);
  pid_t children[4];
  for (int i = 0; i < 4; ++i) {
    children[i] = fork();
    if (children[i] != 0) continue;
    if (i == 0) _exit(0);
    if (i == 1) _exit(200);
    if (i == 3) VICTIM_CHECK(setpgid(0, 0) == 0);
    raise(i == 2 ? SIGKILL : SIGSEGV);
    _exit(1);
  }
  for (pid_t child : children) {
    siginfo_t info{};
    VICTIM_CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
  }
  // In the group of one that has ended.
  const pid_t member = fork();
  if (member == 0) {
    victim_await_signal();
    _exit(getpgrp() == children[3] ? 0 : 1);
  }
  VICTIM_CHECK(setpgid(member, children[3]) == 0);
  struct sigaction action {};
  action.sa_handler = on_child;
  action.sa_flags = SA_RESTART;
  VICTIM_CHECK(sigaction(SIGCHLD, &action, nullptr) == 0);
  if (geteuid() == 0) {
    VICTIM_REFUSED_BY_HOME("is taken here by");
  } else {
    VICTIM_REFUSED_BY_HOME("may not be chosen here by this user");
  }
  victim_ready();
  victim_wait();
  VICTIM_CHECK(told == 0);
  int status = 0;
  VICTIM_CHECK(waitpid(children[0], &status, 0) == children[0] && status == 0);
  VICTIM_CHECK(waitpid(children[1], &status, 0) == children[1] && WEXITSTATUS(status) == 200);
  siginfo_t info{};
  VICTIM_CHECK(waitid(P_PID, static_cast<id_t>(children[2]), &info, WEXITED) == 0);
  VICTIM_CHECK(info.si_code == CLD_KILLED && info.si_status == SIGKILL);
  VICTIM_CHECK(info.si_uid == getuid());
  VICTIM_CHECK(waitpid(children[3], &status, 0) == children[3]);
  VICTIM_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
  VICTIM_CHECK(waitpid(-1, &status, WNOHANG) == 0 && getpgid(member) == children[3]);
  VICTIM_CHECK(killpg(children[3], SIGTERM) == 0);
  victim_check_child(member);
  VICTIM_CHECK(told == 1);
  victim_pass();
}
