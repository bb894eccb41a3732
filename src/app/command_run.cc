// telefork run NODE [--] CMD [ARG...]
//
//     telefork (the pid that the shell waits for)
//        |-- fork -- watcher -- fork --> session process, in a session of its own
//        |<----------------------------- its pid
//        |-----------------------------> it may trace us
//        |<----------------------------- the command waits there (or the end: it has said why, or
//        |                               the watcher has seen what killed it)
//        |-- kill -> watcher             the pid that the shell waits for is to have no child
//     exec telefork-deputy                                      see session/command_session.h
#include <algorithm>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/foreground.h"
#include "app/output.h"
#include "app/places.h"
#include "app/settings.h"
#include "base/error.h"
#include "base/soft_limits.h"
#include "session/command_session.h"
#include "session/own_deputy.h"
#include "session/own_guest.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): unistd.h only has it for GNU

namespace telefork::app {
namespace {

using Clock = std::chrono::steady_clock;
using session::CommandSession;
using session::HomeOptions;

// Before this program ignores some of its own.
std::uint64_t ignored_at_start() {
  std::uint64_t ignored = 0;
  for (int signal = 1; signal <= 64; ++signal) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) {
      ignored |= std::uint64_t{1} << (signal - 1);
    }
  }
  return ignored;
}

session::CommandRequest make_request(const RunCommand& command) {
  session::CommandRequest request;
  request.node = net::parse_node(command.node);
  request.arguments = command.arguments;
  request.cpu_force = command.cpu_force;
  for (char** entry = environ; *entry != nullptr; ++entry) request.environment.emplace_back(*entry);
  char cwd[PATH_MAX];
  if (::getcwd(cwd, sizeof(cwd)) == nullptr) throw_errno("asking for the working directory");
  request.cwd = cwd;
  mode_t mask = ::umask(0);
  ::umask(mask);
  request.umask = mask;
  request.nice = ::getpriority(PRIO_PROCESS, 0);
  request.ignored_signals = command.ignored_signals;
  return request;
}

CommandSession::Settings make_settings(session::Programs programs) {
  Settings told = read_settings();
  session::check_lease(told.lease);
  return {std::move(programs), told.access, registry_folder(), told.lease};
}

void tell(int fd, const void* object, std::size_t size) {
  if (::send(fd, object, size, MSG_NOSIGNAL) != static_cast<ssize_t>(size)) {
    throw Error(Code::kGone, "telefork was ended before the command began");
  }
}

bool hear(int fd, void* object, std::size_t size) {
  ssize_t count;
  do {
    count = ::recv(fd, object, size, MSG_WAITALL);
  } while (count < 0 && errno == EINTR);
  return count == static_cast<ssize_t>(size);
}

// What the session process is made of.
class RunSession {
 public:
  RunSession(const RunCommand& command, session::Programs programs, pid_t home, UniqueFd talk,
             UniqueFd socket, UniqueFd json)
      : command_(command),
        home_(home),
        talk_(std::move(talk)),
        socket_(std::move(socket)),
        json_(std::move(json)),
        session_(make_settings(std::move(programs)), make_request(command)) {}

  int run() {
    try {
      char permitted = 0;
      if (!hear(talk_.get(), &permitted, 1)) return kOwnFailure;
      session_.prepare();
      // It may last for days: no file system is to be busy because of it.
      if (::chdir("/") != 0) throw_errno("changing to /");
      auto become = [this] { tell(talk_.get(), "", 1); };
      session_.run(home_, std::move(socket_), become, make_options());
      return 0;
    } catch (const Error& error) {
      report(error);
      print_error(error);
      return kOwnFailure;
    }
  }

 private:
  HomeOptions make_options() {
    HomeOptions options;
    options.ignored_signals = session::ignored_signals();
    options.may_read_input = watch_foreground(home_, STDIN_FILENO);
    options.on_end = [this](HomeOptions::End end) {
      int code = end.killed ? 128 + end.value : end.value;
      if (json_) {
        nlohmann::ordered_json object = base_report();
        object["exit_code"] = code;
        if (end.killed) object["signal"] = end.value;
        print_json(object, json_);
        json_.reset();
      }
      return HomeOptions::End{false, code};
    };
    options.on_failure = [this](const Error& error) {
      std::string text = describe(error);
      try {
        report(error);
      } catch (const Error& unreported) {
        text += "; " + unreported.text();
      }
      return text;
    };
    return options;
  }

  nlohmann::ordered_json base_report() const {
    return {{"pid", session_.pid()},
            {"guest_pid", session_.guest_pid()},
            {"node", command_.node},
            {"total_ms", std::chrono::duration<double, std::milli>(Clock::now() - start_).count()}};
  }
  void report(const Error& error) const {
    if (json_) print_json(error_object(error, kOwnFailure), json_);
  }

  const RunCommand& command_;
  pid_t home_;
  UniqueFd talk_;
  UniqueFd socket_;
  UniqueFd json_;
  CommandSession session_;
  Clock::time_point start_ = Clock::now();
};

// What was inherited stays with the process at home: here it would hold pipes open.
void close_all_but(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned next = 3;
  for (int fd : kept) {
    if (fd < 3) continue;
    auto number = static_cast<unsigned>(fd);
    if (number > next) ::close_range(next, number - 1, 0);
    next = number + 1;
  }
  ::close_range(next, ~0u, 0);
}

// Exits with the signal that has killed the session process, or 0.
[[noreturn]] void watch_session(pid_t session) {
  // Where it is ignored the kernel keeps no status.
  ::signal(SIGCHLD, SIG_DFL);
  ::close_range(3, ~0u, 0);
  int status = 0;
  while (::waitpid(session, &status, 0) < 0 && errno == EINTR) {
  }
  ::_exit(WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

// In a grandchild, whose pid is told by `talk`. The result is its parent, the watcher.
template <class F>
pid_t start_session(const UniqueFd& talk, F&& run) {
  pid_t watcher = ::fork();
  if (watcher < 0) throw_errno("starting the session's process", Code::kResources);
  if (watcher > 0) return watcher;
  pid_t session = ::fork();
  if (session != 0) {
    tell(talk.get(), &session, sizeof(session));
    if (session > 0) watch_session(session);
    ::_exit(0);
  }
  ::setsid();
  int code = run();
  // A private telepad that is about to end would become the child of whoever orphans go to.
  while (::waitpid(-1, nullptr, 0) > 0 || errno == EINTR) {
  }
  ::_exit(code);
}

// The session process has ended before the command began. By itself it has said why.
int report_end(pid_t watcher, const UniqueFd& json) {
  int status = 0;
  while (::waitpid(watcher, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) == 0) return kOwnFailure;
  int signal = WEXITSTATUS(status);
  Error error(Code::kLost, fmt::format("the command did not begin: the session's process was "
                                       "killed by signal {} ({})",
                                       signal, ::strsignal(signal)));
  if (json) print_json(error_object(error, kOwnFailure), json);
  print_error(error);
  return kOwnFailure;
}

}  // namespace

int run_command(const RunCommand& given) {
  RunCommand command = given;
  if (command.arguments.empty()) {
    throw Error(Code::kUsage, "the command is missing (telefork run --help tells more)");
  }
  net::parse_node(command.node);
  command.ignored_signals = ignored_at_start();
  set_own_signals();
  raise_soft_limits();
  session::Programs programs = session::find_programs();
  UniqueFd json;
  if (!command.json_file.empty()) {
    json = open_file(command.json_file, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  } else if (command.json) {
    json.reset(::fcntl(2, F_DUPFD_CLOEXEC, 3));
  }
  // Not structured bindings: clang 14 lets no lambda capture those.
  UniqueFd talk, talk_there, deputy_socket, session_socket;
  std::tie(talk, talk_there) = make_socket_pair(SOCK_STREAM);
  std::tie(deputy_socket, session_socket) = make_socket_pair(SOCK_STREAM);
  pid_t home = ::getpid();
  pid_t watcher = start_session(talk_there, [&] {
    talk.reset();
    deputy_socket.reset();
    close_all_but({talk_there.get(), session_socket.get(), json.get()});
    try {
      return RunSession(command, programs, home, std::move(talk_there), std::move(session_socket),
                        std::move(json))
          .run();
    } catch (const Error& error) {
      print_error(error);
      return kOwnFailure;
    }
  });
  talk_there.reset();
  session_socket.reset();

  pid_t session = 0;
  if (!hear(talk.get(), &session, sizeof(session)) || session < 0) {
    throw Error(Code::kResources, "starting the session's process");
  }
  ::prctl(PR_SET_PTRACER, session, 0, 0, 0);
  char byte = 0;
  tell(talk.get(), &byte, 1);
  if (!hear(talk.get(), &byte, 1)) return report_end(watcher, json);
  ::kill(watcher, SIGKILL);
  while (::waitpid(watcher, nullptr, 0) < 0 && errno == EINTR) {
  }

  std::vector<char*> arguments = {const_cast<char*>("telefork"), const_cast<char*>("run"),
                                  const_cast<char*>(command.node.c_str())};
  for (const std::string& argument : command.arguments) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  int error =
      session::become_deputy(programs.deputy, deputy_socket.get(), "telefork", arguments.data());
  throw_errno("starting " + programs.deputy, error, Code::kUnsupported);
}

}  // namespace telefork::app
