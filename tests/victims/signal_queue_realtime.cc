// Real-time signals that wait, with values: they come in order, none is lost, the lowest first.
#include "victim.h"

int main() {
  sigset_t set;
  sigemptyset(&set);
  for (int i = 0; i < 3; ++i) sigaddset(&set, SIGRTMIN + i);
  VICTIM_CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  for (int value = 0; value < 30; ++value) {
    VICTIM_CHECK(sigqueue(getpid(), SIGRTMIN + value % 3, sigval{value}) == 0);
  }
  victim_ready();
  victim_wait();
  for (int i = 0; i < 30; ++i) {
    siginfo_t info{};
    const timespec now{};
    VICTIM_CHECK(sigtimedwait(&set, &info, &now) == SIGRTMIN + i / 10);
    VICTIM_CHECK(info.si_value.sival_int == i % 10 * 3 + i / 10);
    VICTIM_CHECK(info.si_code == SI_QUEUE && info.si_pid == getpid() && info.si_uid == getuid());
  }
  const timespec now{};
  VICTIM_CHECK(sigtimedwait(&set, nullptr, &now) == -1 && errno == EAGAIN);
  victim_pass();
}
