// telefork home PID
//
// The session process that stays with PID's deputy does it; this one asks, waits, and says how it
// went. ^C here is a wish not to have it at home; once it may run here it comes too late.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/held.h"
#include "app/output.h"
#include "app/places.h"
#include "base/error.h"
#include "kernel/procfs_task.h"
#include "net/stream.h"
#include "session/home_call.h"
#include "session/registry.h"
#include "session/signal_fd.h"

namespace telefork::app {
namespace {

using session::HomeAnswer;
using session::SessionInfo;

constexpr std::chrono::milliseconds kLookInterval{100};

[[noreturn]] void refuse(pid_t pid, const std::string& why) {
  throw Error(Code::kRefused, fmt::format("refused: process {}: {}", pid, why));
}

// 0: there is no such process.
pid_t parent_of(pid_t pid) {
  try {
    return kernel::read_stat(pid).ppid;
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return 0;
  }
}

// Null: it is not away.
const SessionInfo* find_away(pid_t pid, const std::vector<SessionInfo>& sessions) {
  const auto found = std::find_if(sessions.begin(), sessions.end(), [&](const SessionInfo& info) {
    return info.pid == pid && info.role == "away";
  });
  return found == sessions.end() ? nullptr : &*found;
}

SessionInfo find_session(pid_t pid) {
  if (::kill(pid, 0) != 0 && errno == ESRCH) refuse(pid, "there is no such process");
  const std::vector<SessionInfo> sessions = session::list_sessions(visible_registries());
  if (const SessionInfo* found = find_away(pid, sessions)) return *found;
  for (pid_t other = parent_of(pid); other > 1; other = parent_of(other)) {
    const SessionInfo* found = find_away(other, sessions);
    if (found == nullptr || found->call.empty()) continue;
    refuse(pid, fmt::format("it went with process {0} to {1}: `telefork home {0}` brings both back",
                            other, found->node));
  }
  const bool is_guest = std::any_of(sessions.begin(), sessions.end(), [&](const SessionInfo& info) {
    return info.pid == pid && info.role == "guest";
  });
  refuse(pid, is_guest ? "it is a guest here; call it at its home, by the pid that it has there"
                       : "it is not away, or not by a telefork of this user");
}

std::string why_not_callable(const SessionInfo& info) {
  if (!info.changes_found_by.empty()) {
    return "it is away for a call of run_on, which brings it home when it has ended";
  }
  if (info.state != "away") return fmt::format("it is {}; try again", info.state);
  return "it is a child that was forked there, or a command of telefork run: only what `telefork "
         "move` took away comes home";
}

void tell(const HomeAnswer& answer, const HomeCommand& command) {
  for (const std::string& warning : answer.warnings) print_note("note: " + warning);
  if (!command.json) {
    return print_note(fmt::format(
        "process {}{} here again: {} came from {}, stopped for {:.0f} ms", command.pid,
        answer.processes == 1 ? " runs" : fmt::format(" and {} more run", answer.processes - 1),
        format_bytes(answer.bytes_sent), answer.node, answer.freeze_ms));
  }
  nlohmann::ordered_json shares;
  for (const auto& [step, ms] : answer.shares) shares[step] = ms;
  print_json({{"pid", command.pid},
              {"guest_pid", command.pid},
              {"processes", answer.processes},
              {"node", answer.node},
              {"mode", "eager"},
              {"bytes_sent", answer.bytes_sent},
              {"pages_sent", answer.pages_sent},
              {"freeze_ms", answer.freeze_ms},
              {"total_ms", answer.total_ms},
              {"steps_ms", shares},
              {"warnings", answer.warnings}});
  finish_stdout();
}

int tell_failure(const HomeAnswer& answer, const HomeCommand& command) {
  const int code = answer.stood_still ? kUndone : exit_code(*answer.error);
  if (command.json) print_json(error_object(*answer.error, code));
  print_error(*answer.error);
  if (answer.stood_still) {
    print_note(fmt::format("process {} runs on there", command.pid));
  }
  return code;
}

// Its session would hear of a wish not to have it at home only then.
void await_memory(pid_t pid, session::SignalFd& signals) {
  bool told = false;
  while (const std::optional<std::string> node = find_node_waiting_for_memory(pid)) {
    if (!std::exchange(told, true)) {
      print_note(fmt::format("process {}: waiting for its memory, which still follows it to {}",
                             pid, *node));
    }
    pollfd entries[] = {{signals.fd(), POLLIN, 0}};
    net::poll_until(entries, net::Deadline::in(kLookInterval));
    if (signals.try_read()) {
      throw Error(Code::kFailed, fmt::format("interrupted while the memory of process {} still "
                                             "followed it to {}",
                                             pid, *node));
    }
  }
}

}  // namespace

int home_command(const HomeCommand& command) {
  session::SignalFd signals({SIGINT, SIGTERM, SIGHUP, SIGQUIT});
  set_own_signals();
  refuse_held(command.pid, Wish::kHome);
  await_memory(command.pid, signals);
  refuse_held(command.pid, Wish::kHome);
  const SessionInfo info = find_session(command.pid);
  if (info.call.empty()) refuse(command.pid, why_not_callable(info));
  UniqueFd talk = session::connect_home_call(info.call, command.stop_at);
  for (;;) {
    pollfd entries[] = {{talk.get(), POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    net::poll_until(entries, net::Deadline::never());
    while (signals.try_read()) ::shutdown(talk.get(), SHUT_WR);
    if (entries[0].revents != 0) break;
  }
  HomeAnswer answer;
  try {
    answer = session::receive_home_answer(talk);
  } catch (Error& error) {
    error.add_context(fmt::format("process {}", command.pid));
    throw;
  }
  if (answer.error) return tell_failure(answer, command);
  tell(answer, command);
  return 0;
}

}  // namespace telefork::app
