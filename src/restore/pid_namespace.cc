#include "restore/pid_namespace.h"

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pid_space.h"
#include "kernel/procfs.h"

namespace telefork::restore {
namespace {

constexpr int kLifeline = 3;  // app/init_main.cc
constexpr int kInitReport = 4;
constexpr char kMaking[] = "making a pid namespace";

pid_t clone_with(std::uint64_t flags, std::uint64_t exit_signal, pid_t want) {
  clone_args arguments{};
  pid_t wanted[] = {want};
  arguments.flags = flags;
  arguments.exit_signal = exit_signal;
  if (want != 0) {
    arguments.set_tid = reinterpret_cast<std::uint64_t>(wanted);
    arguments.set_tid_size = 1;
  }
  return static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof(arguments)));
}

// Here, before an exec takes the capabilities that a new user namespace gives its first process.
// What may stand in the way (a /proc that is read-only) is not worth a failure.
void set_last_id(std::string_view text) {
  if (text.empty()) return;
  int fd = ::open(kernel::kLastPidPath, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] ssize_t written = ::write(fd, text.data(), text.size());
  ::close(fd);
}

// In the child, between clone and exec: nothing but system calls. What goes wrong is an errno on
// `report`, which init closes when it runs: during the exec the kernel still has it for what it
// was.
[[noreturn]] void become_init(const std::string& program, std::string_view last_id, int lifeline,
                              int report) {
  ::setsid();
  set_last_id(last_id);
  lifeline = ::fcntl(lifeline, F_DUPFD, kInitReport + 1);
  report = ::fcntl(report, F_DUPFD, kInitReport + 1);
  if (::dup2(lifeline, kLifeline) < 0 || ::dup2(report, kInitReport) < 0 ||
      ::close_range(kInitReport + 1, ~0u, 0) != 0) {
    ::_exit(127);
  }
  for (int fd = 0; fd < kLifeline; ++fd) ::close(fd);
  for (int signal = 1; signal <= 64; ++signal) ::signal(signal, SIG_DFL);
  char* arguments[] = {const_cast<char*>("telefork-init"), nullptr};
  char* environment[] = {nullptr};
  ::execve(program.c_str(), arguments, environment);
  int error = errno;
  [[maybe_unused]] ssize_t told = ::write(kInitReport, &error, sizeof(error));
  ::_exit(127);
}

}  // namespace

PidNamespace PidNamespace::make(const std::string& init_program, pid_t first_id) {
  const std::string last_id = first_id == 0 ? "" : std::to_string(first_id - 1);
  auto [lifeline_read, lifeline_write] = make_pipe();
  auto [report_read, report_write] = make_pipe();
  PidNamespace made;
  made.init_program_ = init_program;
  made.init_ = clone_with(CLONE_NEWPID, SIGCHLD, 0);
  if (made.init_ < 0 && errno == EPERM) {
    made.own_users_ = true;
    made.init_ = clone_with(CLONE_NEWPID | CLONE_NEWUSER, SIGCHLD, 0);
  }
  if (made.init_ < 0) {
    int error = errno;
    made.init_ = 0;
    std::string why = kernel::explain_no_pid_namespace(error, kernel::read_user_namespace_bar());
    throw Error(Code::kUnsupported, fmt::format("{}: {}", kMaking, why));
  }
  if (made.init_ == 0) {
    ::close(lifeline_write.get());
    become_init(init_program, last_id, lifeline_read.get(), report_write.get());
  }
  made.lifeline_ = std::move(lifeline_write);
  made.report_ = std::move(report_read);
  return made;
}

void PidNamespace::await_init() {
  if (!report_) return;
  int error = 0;
  ssize_t count;
  do {
    count = ::read(report_.get(), &error, sizeof(error));
  } while (count < 0 && errno == EINTR);
  report_.reset();
  if (count == sizeof(error)) throw_errno("starting " + init_program_, error, Code::kUnsupported);
  // Only now it may be looked at by its user: a keeper is not dumpable, nor is a copy of it, nor is
  // init once it goes on.
  pids_ = kernel::open_namespace(init_, "pid");
  if (own_users_) {
    users_ = kernel::open_namespace(init_, "user");
    kernel::map_single_user(init_, ::geteuid(), ::getegid());
  }
  if (::write(lifeline_.get(), "", 1) != 1) throw_errno(kMaking);
}

PidNamespace::PidNamespace(PidNamespace&& other) noexcept { *this = std::move(other); }

PidNamespace& PidNamespace::operator=(PidNamespace&& other) noexcept {
  if (this == &other) return *this;
  end();
  init_ = std::exchange(other.init_, 0);
  init_program_ = std::move(other.init_program_);
  report_ = std::move(other.report_);
  own_users_ = other.own_users_;
  lifeline_ = std::move(other.lifeline_);
  pids_ = std::move(other.pids_);
  users_ = std::move(other.users_);
  released_ = other.released_;
  bound_ = std::exchange(other.bound_, false);
  return *this;
}

PidNamespace::~PidNamespace() { end(); }

// That init is gone is no error: all in it has ended then.
void PidNamespace::bind() {
  released_ = true;
  bound_ = true;
  [[maybe_unused]] ssize_t told = ::write(lifeline_.get(), "b", 1);
}

void PidNamespace::end() {
  if (bound_) {
    [[maybe_unused]] ssize_t told = ::write(lifeline_.get(), "u", 1);
  }
  lifeline_.reset();
  if (init_ == 0 || released_) return;
  ::kill(init_, SIGKILL);
  ::waitpid(init_, nullptr, __WALL);
  init_ = 0;
}

// By a child of this process that enters the namespaces, which this one could not leave again, and
// makes the new process its sibling (CLONE_PARENT).
pid_t PidNamespace::start(pid_t want, pid_t group) const {
  struct Answer {
    pid_t pid;
    int error;
  } answer = {-1, ECHILD};
  auto [read_end, write_end] = make_pipe();
  pid_t starter = ::fork();
  if (starter < 0) return -1;
  if (starter == 0) {
    if ((group == 0 || ::setpgid(0, group) == 0) &&
        (!users_ || ::setns(users_.get(), CLONE_NEWUSER) == 0) &&
        ::setns(pids_.get(), CLONE_NEWPID) == 0) {
      answer.pid = clone_with(CLONE_PARENT, 0, want);
      if (answer.pid == 0) return 0;
    }
    answer.error = errno;
    [[maybe_unused]] ssize_t told = ::write(write_end.get(), &answer, sizeof(answer));
    ::_exit(0);
  }
  write_end.reset();
  ssize_t count;
  do {
    count = ::read(read_end.get(), &answer, sizeof(answer));
  } while (count < 0 && errno == EINTR);
  ::waitpid(starter, nullptr, __WALL);
  errno = answer.error;
  return answer.pid;
}

}  // namespace telefork::restore
