#include "app/departing.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <span>
#include <tuple>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "app/foreground.h"
#include "app/held.h"
#include "app/output.h"
#include "app/places.h"
#include "app/progress_line.h"
#include "app/settings.h"
#include "base/error.h"
#include "base/soft_limits.h"
#include "kernel/yama.h"
#include "net/stream.h"
#include "tracee/snapshot.h"

namespace telefork::app {
namespace {

using session::Departure;
using session::DepartureReport;

session::DepartureRequest make_request(const DepartCommand& command, pid_t asker) {
  session::DepartureRequest request;
  request.asker = asker;
  request.pid = command.pid;
  request.node = net::parse_node(command.node);
  request.mode = command.mode;
  request.copy_shared = command.copy_shared;
  request.cpu_force = command.cpu_force;
  request.libc_force = command.libc_force;
  return request;
}

// Whoever asked for it sends nothing: the end of the stream is a wish not to have it.
bool is_closed(int fd) {
  char byte;
  return ::recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

// From the session process to the command.
struct Word {
  enum class Kind { kCode, kSnapshots } kind;
  int code = 0;                 // of the exit
  std::uint32_t snapshots = 0;  // so many SnapshotOf follow
};

void say(int talk, const Word& word, const std::vector<session::SnapshotOf>& snapshots = {}) {
  iovec parts[] = {{const_cast<Word*>(&word), sizeof(word)},
                   {const_cast<session::SnapshotOf*>(snapshots.data()),
                    snapshots.size() * sizeof(session::SnapshotOf)}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  [[maybe_unused]] ssize_t told = ::sendmsg(talk, &message, MSG_NOSIGNAL);
}

// False: the session process has ended.
template <class T>
bool hear(int talk, std::span<T> words) {
  const std::size_t size = words.size_bytes();
  return size == 0 || ::recv(talk, words.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size);
}

session::DepartureSettings make_settings(const DepartCommand& command, int talk) {
  Settings told = read_settings();
  session::check_lease(told.lease);
  session::DepartureSettings settings;
  settings.programs = session::find_programs();
  settings.access = told.access;
  settings.access.bandwidth = command.bandwidth;
  if (command.compression) {
    settings.access.compression = *command.compression;
    settings.access.compression_required = true;
  }
  settings.registry = registry_folder();
  settings.lease = told.lease;
  settings.laziness = told.laziness;
  settings.pagemap = best_pagemap_abi();
  settings.trace_bar = kernel::read_trace_bar();
  settings.wish_fd = talk;
  settings.is_unwanted = [talk] { return is_closed(talk); };
  settings.on_snapshots = [talk](const std::vector<session::SnapshotOf>& snapshots) {
    say(talk, {Word::Kind::kSnapshots, 0, static_cast<std::uint32_t>(snapshots.size())}, snapshots);
  };
  settings.steps = stop_at_step(command.stop_at);
  settings.steps_by_name = stop_at_step;
  return settings;
}

void tell_rounds(const session::LiveRounds::Report& live, nlohmann::ordered_json& told) {
  told["watch_ms"] = live.watch_ms;
  told["converged"] = live.converged;
  nlohmann::ordered_json rounds = nlohmann::ordered_json::array();
  for (const session::LiveRounds::Round& round : live.rounds) {
    rounds.push_back({{"pages", round.pages},
                      {"pages_sent", round.sent},
                      {"bytes_sent", round.bytes},
                      {"ms", round.ms}});
  }
  told["rounds"] = rounds;
}

void tell(const DepartureReport& report, const DepartCommand& command, const DepartureKind& kind) {
  for (const std::string& warning : report.warnings) print_note("note: " + warning);
  if (!command.json) return print_note(kind.say(report));
  nlohmann::ordered_json shares;
  for (const DepartureReport::Share& share : report.shares) {
    shares[std::string(share.step)] = share.ms;
  }
  nlohmann::ordered_json told = {{"pid", report.pid}, {"guest_pid", report.guest_pid}};
  if (report.home_pid != 0) told["home_pid"] = report.home_pid;
  told["node"] = command.node;
  told["mode"] = report.mode;
  told["mode_reason"] = report.mode_reason;
  told["processes"] = report.processes;
  told["bytes_sent"] = report.bytes_sent;
  told["bytes_saved"] = report.bytes_saved;
  told["pages_sent"] = report.pages_sent;
  told["freeze_ms"] = report.freeze_ms;
  told["total_ms"] = report.total_ms;
  if (report.live) tell_rounds(*report.live, told);
  told["steps_ms"] = shares;
  told["warnings"] = report.warnings;
  print_json(told);
  finish_stdout();
}

int tell_failure(const Error& error, const DepartCommand& command, bool undone) {
  int code = undone ? kUndone : exit_code(error);
  if (command.json) print_json(error_object(error, code));
  print_error(error);
  if (undone) print_note(fmt::format("process {} runs on here", command.pid));
  return code;
}

void let_go_of_streams() {
  UniqueFd null = open_file("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) ::dup2(null.get(), fd);
}

void answer(UniqueFd talk, int code) { say(talk.get(), {Word::Kind::kCode, code}); }

// The session process of the command `asker`.
void serve(const DepartCommand& command, const DepartureKind& kind, UniqueFd talk, pid_t asker) {
  ProgressLine progress(fmt::format("process {} to {}", command.pid, escape(command.node)));
  std::unique_ptr<Departure> session;
  DepartureReport report;
  try {
    session::DepartureSettings settings = make_settings(command, talk.get());
    settings.on_sent = [&](std::uint64_t sent, std::uint64_t all) { progress.show(sent, all); };
    session::DepartureRequest request = make_request(command, asker);
    request.keeper = session::find_keeper_call(command.pid, visible_registries());
    session = kind.make(std::move(settings), std::move(request));
    report = session->run();
    progress.clear();
  } catch (const Error& error) {
    progress.clear();
    return answer(std::move(talk),
                  tell_failure(error, command, session && session->freeze_undone()));
  }
  int code = 0;
  try {
    tell(report, command, kind);
  } catch (const Error& error) {
    // It has gone; only nobody could be told.
    print_error(error);
    code = exit_code(error);
  }
  answer(std::move(talk), code);
  let_go_of_streams();
  // It may last for days: no file system is to be busy because of it.
  [[maybe_unused]] int moved = ::chdir("/");
  session->stay(watch_foreground_of_all(session->pids(), session->input()));
}

// A grandchild, so that it is nobody's child here.
void start_session(const DepartCommand& command, const DepartureKind& kind, const UniqueFd& talk,
                   UniqueFd talk_there) {
  const pid_t asker = ::getpid();
  pid_t child = ::fork();
  if (child < 0) throw_errno("starting the session's process", Code::kResources);
  if (child == 0) {
    if (::fork() == 0) {
      ::setsid();
      ::close(talk.get());
      try {
        serve(command, kind, std::move(talk_there), asker);
      } catch (const std::exception&) {
        // Whoever waits for it sees its socket close, or its deputy end.
      }
      // A private telepad that is about to end would become the child of whoever orphans go to.
      while (::waitpid(-1, nullptr, 0) > 0 || errno == EINTR) {
      }
    }
    ::_exit(0);
  }
  talk_there.reset();
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

int depart(const DepartCommand& command, const DepartureKind& kind) {
  if (command.node.empty()) throw Error(Code::kUsage, "the NODE has no name");
  net::parse_node(command.node);
  refuse_held(command.pid, kind.moves_on ? Wish::kMoveOn : Wish::kTake);
  // Not the default: the process may be anywhere when one comes.
  session::SignalFd signals({SIGINT, SIGTERM, SIGHUP, SIGQUIT});
  set_own_signals();
  raise_soft_limits();
  UniqueFd talk, talk_there;
  std::tie(talk, talk_there) = make_socket_pair(SOCK_STREAM);
  start_session(command, kind, talk, std::move(talk_there));
  std::vector<session::SnapshotOf> snapshots;
  for (;;) {
    pollfd entries[] = {{talk.get(), POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    net::poll_until(entries, net::Deadline::never());
    while (signals.try_read()) ::shutdown(talk.get(), SHUT_WR);
    if (entries[0].revents == 0) continue;
    Word word{};
    if (!hear(talk.get(), std::span(&word, 1))) break;
    if (word.kind == Word::Kind::kCode) return word.code;
    snapshots.resize(word.snapshots);
    if (!hear(talk.get(), std::span(snapshots))) break;
  }
  // They have ended with their tracer.
  for (const session::SnapshotOf& one : snapshots) tracee::reap_snapshot(one.process, one.id);
  throw Error(Code::kLost, kind.lost);
}

}  // namespace telefork::app
