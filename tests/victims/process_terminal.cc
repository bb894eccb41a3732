// A session whose controlling terminal is a pseudoterminal of ours: its leader, a job in the
// foreground, one in the background, and one that has let go of the terminal. What is typed goes
// on: ^C reaches the foreground alone, and the background may not read.
#include <sys/ioctl.h>
#include <termios.h>

#include "victim.h"

namespace {

int report[2];  // to the first process
int begun[2];   // of a job, to the leader
int master;

void say(const int (&pipe)[2], char c) { VICTIM_CHECK(write(pipe[1], &c, 1) == 1); }
char hear(const int (&pipe)[2]) {
  char c = 0;
  VICTIM_CHECK(read(pipe[0], &c, 1) == 1);
  return c;
}

[[noreturn]] void be_foreground() {
  const int terminal = open("/dev/tty", O_RDWR);
  VICTIM_CHECK(terminal >= 0);
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGINT);
  sigprocmask(SIG_BLOCK, &wanted, nullptr);
  say(begun, 'f');
  int signal = 0;
  VICTIM_CHECK(sigwait(&wanted, &signal) == 0 && signal == SIGINT);
  VICTIM_CHECK(tcgetpgrp(terminal) == getpgrp() && tcgetsid(terminal) == getsid(0));
  say(report, 'i');
  char text[16];
  VICTIM_CHECK(read(terminal, text, sizeof text) == 6 && std::memcmp(text, "typed\n", 6) == 0);
  say(report, 'r');
  victim_await_signal();
  _exit(0);
}

[[noreturn]] void be_background() {
  say(begun, 'b');
  victim_await_signal();
  signal(SIGTTIN, SIG_IGN);
  const int terminal = open("/dev/tty", O_RDWR);
  char text[16];
  VICTIM_CHECK(terminal >= 0 && read(terminal, text, sizeof text) < 0 && errno == EIO);
  _exit(0);
}

[[noreturn]] void be_without() {
  const int terminal = open("/dev/tty", O_RDWR);
  VICTIM_CHECK(terminal >= 0 && ioctl(terminal, TIOCNOTTY) == 0 && close(terminal) == 0);
  say(begun, 'w');
  victim_await_signal();
  VICTIM_CHECK(open("/dev/tty", O_RDWR) < 0 && errno == ENXIO);
  _exit(0);
}

[[noreturn]] void lead() {
  VICTIM_CHECK(setsid() == getpid());
  const int slave = open(ptsname(master), O_RDWR);  // which takes it
  VICTIM_CHECK(slave >= 0 && tcgetsid(slave) == getpid() && close(master) == 0);
  pid_t jobs[3];
  for (int i = 0; i < 3; ++i) {
    jobs[i] = fork();
    if (jobs[i] == 0) {
      if (i < 2) VICTIM_CHECK(setpgid(0, 0) == 0);
      VICTIM_CHECK(close(slave) == 0);
      i == 0 ? be_foreground() : i == 1 ? be_background() : be_without();
    }
    hear(begun);
  }
  signal(SIGTTOU, SIG_IGN);
  VICTIM_CHECK(tcsetpgrp(slave, jobs[0]) == 0);
  say(report, 'l');
  victim_await_signal();
  VICTIM_CHECK(tcgetpgrp(slave) == jobs[0] && tcgetsid(slave) == getpid());
  for (pid_t job : jobs) VICTIM_CHECK(kill(job, SIGTERM) == 0);
  for (pid_t job : jobs) victim_check_child(job);
  _exit(0);
}

}  // namespace

int main() {
  master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) victim_skip("a pseudoterminal");
  VICTIM_CHECK(grantpt(master) == 0 && unlockpt(master) == 0 && pipe(report) == 0 &&
               pipe(begun) == 0);
  const pid_t leader = fork();
  if (leader == 0) lead();
  VICTIM_CHECK(hear(report) == 'l');
  VICTIM_NOTED_BESIDE("its terminal /dev/pts/");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(write(master, "\003", 1) == 1 && hear(report) == 'i');
  VICTIM_CHECK(write(master, "typed\r", 6) == 6 && hear(report) == 'r');
  VICTIM_CHECK(kill(leader, SIGTERM) == 0);
  victim_check_child(leader);
  victim_pass();
}
