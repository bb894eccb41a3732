// telefork load FILE
#include <chrono>
#include <csignal>
#include <cstdio>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/output.h"
#include "app/places.h"
#include "base/soft_limits.h"
#include "migrate/load.h"
#include "session/own_guest.h"
#include "session/programs.h"

namespace telefork::app {
namespace {

using Clock = std::chrono::steady_clock;

double since_ms(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

migrate::LoadSettings make_settings(const LoadCommand& command) {
  migrate::LoadSettings settings;
  settings.path = command.file;
  session::Programs programs = session::find_programs();
  settings.blank_program = programs.blank;
  settings.init_program = programs.init;
  settings.cpu_force = command.cpu_force;
  settings.libc_force = command.libc_force;
  // One job for the shell, so that the guest may read the terminal and gets its signals.
  settings.process_group = ::getpgrp();
  for (int fd = 0; fd < 3; ++fd) {
    settings.streams[fd] = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  }
  settings.warn = [](const std::string& text) { print_note("note: " + text); };
  return settings;
}

// The guest's streams end when the guest closes them, not when this process ends.
void let_go_of_streams() {
  UniqueFd null = open_file("/dev/null", O_RDWR);
  for (int fd = 0; fd < 2; ++fd) ::dup2(null.get(), fd);
}

}  // namespace

int load_command(const LoadCommand& command) {
  set_own_signals();
  raise_soft_limits();
  UniqueFd json;
  try {
    auto start = Clock::now();
    if (!command.json_file.empty()) {
      json = open_file(command.json_file, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    } else if (command.json) {
      json.reset(::fcntl(2, F_DUPFD_CLOEXEC, 3));
    }
    std::uint64_t ignored = session::ignored_signals();
    migrate::Load load(make_settings(command));
    load.restore();
    session::SignalFd signals(std::span<const int>(session::forwarded_signals(ignored)));
    let_go_of_streams();
    double restore_ms = since_ms(start);
    pid_t pid = load.release();
    int status = session::supervise_own_guest(pid, signals);
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (json) {
      nlohmann::ordered_json report = {{"pid", pid},
                                       {"guest_pid", load.guest_pid()},
                                       {"file", command.file},
                                       {"bytes_read", load.totals().bytes},
                                       {"pages_read", load.totals().pages},
                                       {"restore_ms", restore_ms},
                                       {"total_ms", since_ms(start)},
                                       {"exit_code", code}};
      if (WIFSIGNALED(status)) report["signal"] = WTERMSIG(status);
      print_json(report, json);
    }
    return code;
  } catch (const Error& error) {
    if (json) print_json(error_object(error, kOwnFailure), json);
    print_error(error);
    return kOwnFailure;
  }
}

}  // namespace telefork::app
