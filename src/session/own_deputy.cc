#include "session/own_deputy.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/deputy.h"
#include "base/error.h"
#include "kernel/procfs_task.h"
#include "kernel/yama.h"
#include "net/stream.h"

namespace telefork::session {
namespace {

constexpr std::chrono::seconds kDeputyPatience(10);
constexpr int kOwnFailure = 125;

}  // namespace

tracee::StopWatch watch_own(pid_t home) {
  try {
    return tracee::StopWatch::seize(home);
  } catch (const Error& error) {
    if (error.error() != EPERM) throw;
    const kernel::Status status = kernel::read_status(home);
    if (status.state == 'Z' || status.state == 'X') {
      throw Error(Code::kGone, "telefork was ended before the command began");
    }
    std::string why = kernel::say_bar(kernel::read_trace_bar());
    if (status.tracer_pid != 0) {
      why = fmt::format("telefork itself is traced by process {}; call it without a debugger",
                        status.tracer_pid);
    } else if (why.empty()) {
      why = "telefork itself may not be traced; call it as the user who may";
    }
    throw Error(Code::kRefused, fmt::format("process {}: {}", home, why));
  }
}

// Before that a signal would end the process at home, or be lost.
void await_own_deputy(deputy::Supervisor& supervisor, SignalFd& signals) {
  net::Deadline deadline = net::Deadline::in(kDeputyPatience);
  for (;;) {
    pollfd entries[] = {{signals.fd(), POLLIN, 0}, {supervisor.socket_fd(), POLLIN, 0}};
    if (net::poll_until(entries, deadline) == 0) {
      throw Error(Code::kFailed, "telefork-deputy did not start in time");
    }
    while (signals.try_read()) {
    }
    supervisor.on_sigchld();
    supervisor.on_readable();
    while (auto event = supervisor.next_event()) {
      if (event->kind == deputy::Event::Kind::kReady) return;
      if (event->kind == deputy::Event::Kind::kKilled) {
        throw Error(Code::kGone, "telefork was ended before the command began");
      }
    }
  }
}

int become_deputy(const std::string& program, int socket, const std::string& process_name,
                  char* const* arguments) {
  // All 64, those that libc keeps for itself too: the deputy reads them by signalfd.
  std::uint64_t all = ~std::uint64_t{0};
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, sizeof(all));
  std::string fd = fmt::format("{}={}", TELEFORK_DEPUTY_FD, socket);
  std::string name = fmt::format("{}={}", TELEFORK_DEPUTY_COMM, process_name);
  char* environment[] = {fd.data(), name.data(), nullptr};
  // Whoever waits for the end of a pipe must not wait for a deputy.
  // But for stderr, where it says why when nobody else is left to.
  auto kept = static_cast<unsigned>(socket);
  ::close_range(0, STDERR_FILENO - 1, CLOSE_RANGE_CLOEXEC);
  if (kept > STDERR_FILENO + 1) {
    ::close_range(STDERR_FILENO + 1, kept - 1, CLOSE_RANGE_CLOEXEC);
  }
  ::close_range(kept + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  ::fcntl(socket, F_SETFD, 0);
  ::execve(program.c_str(), arguments, environment);
  return errno;
}

OwnDeputy::OwnDeputy(const Settings& settings) {
  auto [go_read, go_write] = make_pipe();
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  std::vector<std::string> texts = settings.arguments;
  std::vector<char*> arguments;
  for (std::string& text : texts) arguments.push_back(text.data());
  arguments.push_back(nullptr);
  UniqueFd null = open_file("/dev/null", O_RDWR);
  pid_ = ::fork();
  if (pid_ < 0) throw_errno("starting the deputy", Code::kResources);
  if (pid_ == 0) {
    go_write.reset();
    ours.reset();
    const int standard_error = settings.standard_error < 0 ? null.get() : settings.standard_error;
    char byte;
    // The end of the pipe: its session's process is gone.
    if (::dup2(standard_error, STDERR_FILENO) >= 0 && ::read(go_read.get(), &byte, 1) == 1) {
      become_deputy(settings.program, theirs.get(), settings.name, arguments.data());
    }
    ::_exit(kOwnFailure);
  }
  go_ = std::move(go_write);
  socket_ = std::move(ours);
}

OwnDeputy::~OwnDeputy() {
  // Where its supervisor has reaped it the number may be a stranger's.
  siginfo_t info{};
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT | __WALL) != 0) {
    return;
  }
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, __WALL) < 0 && errno == EINTR) {
  }
}

deputy::Supervisor OwnDeputy::become(SignalFd& signals, UniqueFd complaints) {
  deputy::Supervisor supervisor(watch_own(pid_), std::move(socket_), std::move(complaints));
  if (::write(go_.get(), "", 1) != 1) throw_errno("starting the deputy");
  await_own_deputy(supervisor, signals);
  return supervisor;
}

}  // namespace telefork::session
