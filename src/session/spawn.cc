#include "session/spawn.h"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/soft_limits.h"
#include "base/unique_fd.h"

namespace telefork::session {
namespace {

void set_up_signals() {
  for (int signal = 1; signal <= 64; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Moves the descriptors to 3, 4, ... by way of numbers above all of them. The report pipe comes
// after the last.
int arrange_fds(const std::vector<int>& fds, int report) {
  int first = 3;
  int count = static_cast<int>(fds.size());
  int above = first + count + 1;
  std::vector<int> parked;
  for (int fd : fds) {
    int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, above);
    if (moved < 0) return -1;
    parked.push_back(moved);
  }
  int moved_report = ::fcntl(report, F_DUPFD_CLOEXEC, above);
  if (moved_report < 0) return -1;
  for (int i = 0; i < count; ++i) {
    if (::dup2(parked[static_cast<std::size_t>(i)], first + i) < 0) return -1;
  }
  int report_at = first + count;
  if (::dup3(moved_report, report_at, O_CLOEXEC) < 0) return -1;
  ::close_range(static_cast<unsigned>(report_at) + 1, ~0u, 0);
  return report_at;
}

// As exec takes them; `first` may be null.
std::vector<char*> pointers_to(const char* first, const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  if (first != nullptr) pointers.push_back(const_cast<char*>(first));
  for (const std::string& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

[[noreturn]] void run_child(const Spawn& what, int null, int report) {
  if (what.new_session) ::setsid();
  set_up_signals();
  for (int fd = 0; fd < 3; ++fd) {
    int given = what.standard[static_cast<std::size_t>(fd)];
    ::dup2(given >= 0 ? given : null, fd);
  }
  int report_at = arrange_fds(what.fds, report);
  int error = report_at < 0 ? errno : 0;
  restore_soft_limits();
  if (error == 0 && what.prepare) error = what.prepare();
  if (error == 0) {
    std::vector<char*> arguments = pointers_to(what.program.c_str(), what.arguments);
    std::vector<char*> environment;
    if (what.environment) environment = pointers_to(nullptr, *what.environment);
    ::execvpe(what.program.c_str(), arguments.data(),
              what.environment ? environment.data() : environ);
    error = errno;
  }
  [[maybe_unused]] ssize_t told =
      ::write(report_at < 0 ? report : report_at, &error, sizeof(error));
  ::_exit(127);
}

}  // namespace

pid_t spawn(const Spawn& what) {
  UniqueFd null = open_file("/dev/null", O_RDWR);
  auto [report_read, report_write] = make_pipe();
  pid_t pid = ::fork();
  if (pid < 0) throw_errno("starting " + what.program, Code::kResources);
  if (pid == 0) run_child(what, null.get(), report_write.get());
  report_write.reset();
  int error = 0;
  ssize_t count;
  do {
    count = ::read(report_read.get(), &error, sizeof(error));
  } while (count < 0 && errno == EINTR);
  if (count == 0) return pid;
  ::waitpid(pid, nullptr, 0);
  throw_errno("starting " + what.program, error, Code::kUnsupported);
}

}  // namespace telefork::session
