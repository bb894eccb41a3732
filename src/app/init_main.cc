// telefork-init: pid 1 of a pid namespace that a guest has of its own (restore/pid_namespace.h).
//
// It closes descriptor 4 when it runs, and goes on at a byte from 3.
//
// The guest is a child of its keeper, not of this process; its orphans come here and are reaped.
// When the keeper's end of descriptor 3 is closed the guest has ended: this one lasts as long as it
// has children, and its end would end whatever is left in the namespace (pid_namespaces(7)).
// Between a 'b' and a 'u' from there it is to end at once then: the keeper was killed, and nobody
// may be left who would end the guest. Static and without libstdc++, one a guest.
#include <cerrno>
#include <csignal>
#include <ctime>

#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr int kLifeline = 3;
constexpr int kReport = 4;

void on_child(int) {}  // that ppoll() returns is enough

}  // namespace

int main() {
  // The keeper now looks at its namespaces, which it could not before the exec, nor later.
  close(kReport);
  char byte;
  if (read(kLifeline, &byte, 1) != 1) return 1;
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  sigset_t child;
  sigset_t none;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &child, nullptr);
  struct sigaction action {};
  action.sa_handler = on_child;
  sigaction(SIGCHLD, &action, nullptr);
  char word = 'u';
  for (;;) {
    while (waitpid(-1, nullptr, WNOHANG | __WALL) > 0) {
    }
    pollfd lifeline{.fd = kLifeline, .events = POLLIN, .revents = 0};
    const int ready = ppoll(&lifeline, 1, nullptr, &none);
    if (ready < 0 && errno != EINTR) return 1;
    if (ready > 0 && read(kLifeline, &word, 1) != 1) break;
  }
  if (word == 'b') return 1;
  for (;;) {
    if (waitpid(-1, nullptr, __WALL) > 0 || errno != ECHILD) continue;
    // A load that is killed closes its descriptors a moment before its guest is nobody's.
    if (kill(-1, 0) != 0 && errno == ESRCH) return 0;
    constexpr timespec kMoment{0, 1'000'000};
    nanosleep(&kMoment, nullptr);
  }
}
