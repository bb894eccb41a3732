// telefork-deputy: what stays at home under the pid of a process that has gone elsewhere. It takes
// the signals that are sent to the pid and hands them to the session process, and it stops,
// continues and ends as the session process says. See abi/deputy.h.
//
// It is exec'ed in the place of the process, and there may be thousands of it: static, no
// libstdc++, no allocation, four or five descriptors, of which one is the program's stderr. All
// signals stay blocked but for the one by which it stops or dies; a signal that was pending at the
// exec is read like any other.
//
// No sigaction() but for that one signal: setting the default where that means "ignore" would drop
// a pending SIGCHLD or SIGWINCH (kernel/signal.c, do_sigaction).
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/deputy.h"

namespace {

using Signals = std::uint64_t;  // the kernel's set; libc's leaves out two

constexpr int kMaxSignals = 32;
constexpr int kMaxCommands = 32;
constexpr int kStandardErrorPatienceMs = 1000;

struct Deputy {
  int socket = -1;
  int signals = -1;
  int lifeline = -1;
  int parent = -1;          // a pidfd, or -1
  int standard_error = -1;  // the program's, or -1
};

constexpr Signals bit(int signal) { return Signals{1} << (signal - 1); }

void set_mask(int how, Signals signals) {
  syscall(SYS_rt_sigprocmask, how, &signals, nullptr, sizeof signals);
}

bool is_pending(int signal) {
  Signals pending = 0;
  syscall(SYS_rt_sigpending, &pending, sizeof pending);
  return (pending & bit(signal)) != 0;
}

// Nobody else is left who could say why. A reader that never comes must not keep the pid alive.
[[noreturn]] void give_up(const Deputy& deputy) {
  constexpr char kText[] =
      "telefork: its session process has ended; what became of the guest is not known\n";
  pollfd ready{.fd = deputy.standard_error, .events = POLLOUT, .revents = 0};
  if (deputy.standard_error >= 0 && poll(&ready, 1, kStandardErrorPatienceMs) == 1) {
    [[maybe_unused]] const ssize_t n = write(deputy.standard_error, kText, sizeof kText - 1);
  }
  _exit(TELEFORK_FAILED_STATUS);
}

[[noreturn]] void refuse_to_start() {
  constexpr char kText[] = "telefork-deputy: started by telefork itself, not by hand\n";
  [[maybe_unused]] const ssize_t n = write(STDERR_FILENO, kText, sizeof kText - 1);
  _exit(2);
}

int number_from_environment(const char* name) {
  const char* text = getenv(name);
  if (text == nullptr || *text == '\0') return -1;
  char* end = nullptr;
  const long number = strtol(text, &end, 10);
  return *end == '\0' && number >= 0 && number <= INT32_MAX ? static_cast<int>(number) : -1;
}

// Blocks while the session process does not read: signals then wait in the kernel's queue.
void send_event(const Deputy& deputy, telefork_deputy_event_kind kind,
                const signalfd_siginfo* info = nullptr) {
  telefork_deputy_event event{};
  event.header.magic = TELEFORK_MAGIC_EVENT;
  event.header.version = TELEFORK_ABI_VERSION;
  event.header.size = sizeof event;
  event.kind = kind;
  if (info != nullptr) event.info = *info;
  const char* bytes = reinterpret_cast<const char*>(&event);
  std::size_t sent = 0;
  while (sent < sizeof event) {
    const ssize_t n = send(deputy.socket, bytes + sent, sizeof event - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) give_up(deputy);
    sent += static_cast<std::size_t>(n);
  }
}

bool is_command(const telefork_deputy_command& command) {
  return command.header.magic == TELEFORK_MAGIC_COMMAND &&
         command.header.version == TELEFORK_ABI_VERSION && command.header.size == sizeof command;
}

// The first command has the lifeline with it; it comes as one piece, as it was sent.
void receive_start(Deputy& deputy) {
  telefork_deputy_command command{};
  iovec part{&command, sizeof command};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n;
  do {
    n = recvmsg(deputy.socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  const cmsghdr* c = n > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (n != sizeof command || !is_command(command) || command.kind != TELEFORK_DEPUTY_START ||
      c == nullptr || c->cmsg_type != SCM_RIGHTS) {
    give_up(deputy);
  }
  memcpy(&deputy.lifeline, CMSG_DATA(c), sizeof deputy.lifeline);
}

// Its closing, when the session process dies, is sent to us as SIGCONT, which continues a stopped
// process; then the socket's end is read.
void arm_lifeline(const Deputy& deputy) {
  if (fcntl(deputy.lifeline, F_SETSIG, SIGCONT) != 0 ||
      fcntl(deputy.lifeline, F_SETOWN, getpid()) != 0 ||
      fcntl(deputy.lifeline, F_SETFL, O_NONBLOCK | O_ASYNC) != 0) {
    give_up(deputy);
  }
}

// A pidfd, not PR_SET_PDEATHSIG: that one also comes when only the thread that forked has ended,
// and cannot be told from a signal that somebody sent.
void watch_parent(Deputy& deputy) {
  const int parent = number_from_environment(TELEFORK_DEPUTY_PARENT);
  if (parent < 0) return;
  deputy.parent = static_cast<int>(syscall(SYS_pidfd_open, parent, 0));
  if (deputy.parent < 0 && errno != ESRCH) give_up(deputy);
  if (deputy.parent >= 0 && getppid() == parent) return;
  if (deputy.parent >= 0) close(deputy.parent);
  deputy.parent = -1;
  send_event(deputy, TELEFORK_DEPUTY_PARENT_DIED);
}

// The SIGCONTs that telefork itself sends to continue the deputy.
bool is_our_own(const Deputy& deputy, const signalfd_siginfo& info) {
  if (info.ssi_signo != SIGCONT) return false;
  const bool of_supervisor =
      info.ssi_code == SI_QUEUE && info.ssi_ptr == TELEFORK_DEPUTY_CONTINUE_VALUE;
  const bool of_lifeline =
      info.ssi_code >= POLL_IN && info.ssi_code <= POLL_HUP && info.ssi_fd == deputy.lifeline;
  return of_supervisor || of_lifeline;
}

// Its children here are deputies too: of theirs, which end there, the guest hears there.
bool is_of_child(const signalfd_siginfo& info) {
  return info.ssi_signo == SIGCHLD && info.ssi_code > 0;
}

// What is left of them here is nobody's to wait for.
void reap_children() {
  while (waitpid(-1, nullptr, WNOHANG | __WALL) > 0) {
  }
}

// All signals are blocked before and after.
void raise_by_default(int signal) {
  // Not sigaction(3), which keeps 32 and 33 for itself: all zero is SIG_DFL without flags or mask.
  const std::uint64_t by_default[4] = {};
  syscall(SYS_rt_sigaction, signal, by_default, nullptr, sizeof(std::uint64_t));
  syscall(SYS_tgkill, getpid(), static_cast<pid_t>(syscall(SYS_gettid)), signal);
  set_mask(SIG_UNBLOCK, bit(signal));
  set_mask(SIG_BLOCK, bit(signal));
}

// Sends all that have come on to the session process; never waits for one. True: SIGCONT was among
// them, and not one of telefork's own.
bool forward_signals(const Deputy& deputy) {
  signalfd_siginfo infos[kMaxSignals];
  const ssize_t n = read(deputy.signals, infos, sizeof infos);
  bool continued = false;
  for (ssize_t i = 0; i < n / static_cast<ssize_t>(sizeof infos[0]); ++i) {
    if (is_our_own(deputy, infos[i])) continue;
    if (is_of_child(infos[i])) {
      reap_children();
      continue;
    }
    continued = continued || infos[i].ssi_signo == SIGCONT;
    send_event(deputy, TELEFORK_DEPUTY_SIGNAL, &infos[i]);
  }
  return continued;
}

// A stop signal drops a pending SIGCONT, hence the look before; a SIGCONT that ends the stop stays
// pending, hence the look after: where there is none the kernel dropped the stop, as it does with
// those of the terminal in an orphaned process group.
void stop_by(const Deputy& deputy, int signal) {
  if (forward_signals(deputy)) return;
  const bool of_terminal = signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
  if (of_terminal) raise_by_default(signal);
  if (!of_terminal || !is_pending(SIGCONT)) raise_by_default(SIGSTOP);
}

[[noreturn]] void die_of(int signal) {
  // The core file, if any, is the guest's and lies there.
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (signal >= 1 && signal <= 64) raise_by_default(signal);
  _exit(128 + signal);
}

// `superseded`: the next command is here already.
void obey(const Deputy& deputy, const telefork_deputy_command& command, bool superseded) {
  if (!is_command(command)) give_up(deputy);
  switch (command.kind) {
    case TELEFORK_DEPUTY_EXIT:
      reap_children();
      _exit(command.value);
    case TELEFORK_DEPUTY_DIE:
      reap_children();
      die_of(command.value);
    case TELEFORK_DEPUTY_STOP:
      send_event(deputy, TELEFORK_DEPUTY_OBEYED);
      if (!superseded) stop_by(deputy, command.value);
      return;
    case TELEFORK_DEPUTY_CONTINUE:  // a SIGCONT beside it does that
      return send_event(deputy, TELEFORK_DEPUTY_OBEYED);
    case TELEFORK_DEPUTY_ECHO:
      forward_signals(deputy);
      return send_event(deputy, TELEFORK_DEPUTY_ECHOED);
    default:
      give_up(deputy);
  }
}

// Never blocks but for the rest of a command that has begun.
void obey_commands(const Deputy& deputy) {
  telefork_deputy_command commands[kMaxCommands];
  char* bytes = reinterpret_cast<char*>(commands);
  std::size_t received = 0;
  do {
    const ssize_t n = recv(deputy.socket, bytes + received, sizeof commands - received,
                           received == 0 ? MSG_DONTWAIT : 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN && received == 0) return;
    if (n <= 0) give_up(deputy);
    received += static_cast<std::size_t>(n);
  } while (received % sizeof commands[0] != 0);
  const std::size_t count = received / sizeof commands[0];
  for (std::size_t i = 0; i < count; ++i) obey(deputy, commands[i], i + 1 < count);
}

[[noreturn]] void run(Deputy& deputy) {
  for (;;) {
    pollfd fds[] = {{.fd = deputy.signals, .events = POLLIN, .revents = 0},
                    {.fd = deputy.socket, .events = POLLIN, .revents = 0},
                    {.fd = deputy.parent, .events = POLLIN, .revents = 0}};
    if (poll(fds, 3, -1) < 0) {
      if (errno != EINTR) give_up(deputy);  // the program's seccomp filter may forbid it
      continue;
    }
    if (fds[2].revents != 0) {
      send_event(deputy, TELEFORK_DEPUTY_PARENT_DIED);
      close(deputy.parent);
      deputy.parent = -1;
    }
    forward_signals(deputy);
    obey_commands(deputy);
  }
}

}  // namespace

int main() {
  set_mask(SIG_SETMASK, ~Signals{0});
  Deputy deputy;
  deputy.socket = number_from_environment(TELEFORK_DEPUTY_FD);
  if (deputy.socket < 0 || fcntl(deputy.socket, F_SETFD, FD_CLOEXEC) != 0) refuse_to_start();
  if (deputy.socket != STDERR_FILENO && fcntl(STDERR_FILENO, F_GETFD) >= 0) {
    deputy.standard_error = STDERR_FILENO;
  }
  unsigned from = 0;
  const auto socket = static_cast<unsigned>(deputy.socket);
  for (const unsigned kept : {socket < 2U ? socket : 2U, socket < 2U ? 2U : socket}) {
    if (kept > from) syscall(SYS_close_range, from, kept - 1, 0U);
    from = kept + 1;
  }
  syscall(SYS_close_range, from, ~0U, 0U);
  if (const char* name = getenv(TELEFORK_DEPUTY_COMM)) prctl(PR_SET_NAME, name, 0, 0, 0);
  sigset_t all;
  memset(&all, 0xff, sizeof all);
  deputy.signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
  if (deputy.signals < 0) give_up(deputy);
  receive_start(deputy);
  arm_lifeline(deputy);
  send_event(deputy, TELEFORK_DEPUTY_READY);
  watch_parent(deputy);
  reap_children();
  run(deputy);
}
