// Stopped children: one whose stop the parent has heard of, one of several threads whose stop it
// has not; and one that stops a moment later as always.
#include <pthread.h>

#include "victim.h"

namespace {

volatile sig_atomic_t told = 0;
void on_child(int) { told = told + 1; }

void* sleep_on(void*) {
  for (;;) pause();
}

}  // namespace

int main() {
  struct sigaction action {};
  action.sa_handler = on_child;
  action.sa_flags = SA_RESTART;
  VICTIM_CHECK(sigaction(SIGCHLD, &action, nullptr) == 0);
  const pid_t heard = fork();
  if (heard == 0) {
    raise(SIGSTOP);
    victim_await_signal();
    _exit(5);
  }
  const pid_t unheard = fork();
  if (unheard == 0) {
    pthread_t thread;
    VICTIM_CHECK(pthread_create(&thread, nullptr, sleep_on, nullptr) == 0);
    raise(SIGSTOP);
    victim_await_signal();
    _exit(6);
  }
  int status = 0;
  VICTIM_CHECK(waitpid(heard, &status, WUNTRACED) == heard && WIFSTOPPED(status));
  siginfo_t info{};
  VICTIM_CHECK(waitid(P_PID, static_cast<id_t>(unheard), &info, WSTOPPED | WNOWAIT) == 0);
  told = 0;
  victim_ready();
  victim_wait();
  VICTIM_CHECK(told == 0);
  VICTIM_CHECK(waitpid(heard, &status, WNOHANG | WUNTRACED) == 0);
  VICTIM_CHECK(waitpid(unheard, &status, WNOHANG | WUNTRACED) == unheard);
  VICTIM_CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
  // They run no more than before.
  VICTIM_CHECK(kill(heard, SIGTERM) == 0 && kill(unheard, SIGTERM) == 0);
  VICTIM_CHECK(waitpid(-1, &status, WNOHANG) == 0);
  VICTIM_CHECK(kill(heard, SIGCONT) == 0 && kill(unheard, SIGCONT) == 0);
  VICTIM_CHECK(waitpid(heard, &status, 0) == heard && WEXITSTATUS(status) == 5);
  VICTIM_CHECK(waitpid(unheard, &status, 0) == unheard && WEXITSTATUS(status) == 6);
  victim_pass();
}
