#include "session/returning_deputies.h"

#include <algorithm>
#include <csignal>

#include <fmt/format.h>

#include "base/error.h"
#include "session/program_call.h"
#include "tracee/parked_process.h"

namespace telefork::session {

using deputy::Event;
using protocol::schema::Status;

ReturningDeputies::ReturningDeputies(const std::vector<Deputy>& deputies,
                                     const Programs& programs) {
  for (const Deputy& deputy : deputies) all_.push_back(std::make_unique<One>(deputy, programs));
}

ReturningDeputies::One* ReturningDeputies::find(pid_t pid) const {
  auto found = std::find_if(all_.begin(), all_.end(),
                            [pid](const auto& one) { return one->deputy.own_pid == pid; });
  return found == all_.end() || (*found)->gone ? nullptr : found->get();
}

void ReturningDeputies::add_interest(std::vector<pollfd>& entries) const {
  for (const auto& one : all_) {
    if (one->gone || one->exchange.taken()) continue;
    entries.push_back({one->supervisor().socket_fd(), POLLIN, 0});
  }
}

void ReturningDeputies::on_killed(One& one) {
  one.gone = one.killed = true;
  one.events.push_back({.kind = Event::Kind::kKilled});
}

void ReturningDeputies::look() {
  for (const auto& one : all_) {
    if (one->gone || one->exchange.taken()) continue;
    deputy::Supervisor& supervisor = one->supervisor();
    supervisor.on_sigchld();
    supervisor.on_readable();
    while (auto event = supervisor.next_event()) {
      one->killed = one->killed || event->kind == Event::Kind::kKilled;
      one->gone = one->gone || one->killed || event->kind == Event::Kind::kEnded;
      one->stopped = one->stopped || event->kind == Event::Kind::kStopped;
      one->events.push_back(*event);
    }
    if (one->gone) ends_.on_gone(supervisor);
  }
}

void ReturningDeputies::throw_if_disturbed() const {
  for (const auto& one : all_) {
    const pid_t pid = one->deputy.pid;
    if (one->killed || is_taken_and_killed(*one)) {
      throw Error(one == all_.front() ? Code::kGone : Code::kFailed,
                  fmt::format("process {} was killed on its way home", pid));
    }
    if (one->stopped) {
      throw Error(Code::kFailed, fmt::format("process {} was stopped on its way home", pid));
    }
  }
}

bool ReturningDeputies::obey(Status::Reader status) {
  One* one = find(static_cast<pid_t>(status.getPid()));
  if (one == nullptr || one == all_.front().get() || one->exchange.taken()) return false;
  deputy::Supervisor& supervisor = one->supervisor();
  switch (status.which()) {
    case Status::EXITED:
      ends_.add(supervisor, {false, status.getExited()});
      break;
    case Status::KILLED:
      ends_.add(supervisor, {true, static_cast<int>(status.getKilled().getSignal())});
      break;
    case Status::STOPPED:
      supervisor.stop(static_cast<int>(status.getStopped()));
      break;
    case Status::CONTINUED:
      supervisor.resume();
      break;
  }
  return true;
}

void ReturningDeputies::get_ready() {
  for (const auto& one : all_) {
    if (one->gone || !one->supervisor().held()) continue;
    one->held = true;
    one->supervisor().resume();
  }
}

bool ReturningDeputies::ready() const {
  return ends_.idle() && std::all_of(all_.begin(), all_.end(), [](const auto& one) {
           if (one->gone) return true;
           const deputy::Supervisor& supervisor = one->supervisor();
           return supervisor.settled() && !supervisor.stopped();
         });
}

bool ReturningDeputies::is_found(pid_t pid) const { return find(pid) != nullptr; }

pid_t ReturningDeputies::seen_here(pid_t pid) const {
  const One* one = find(pid);
  return one == nullptr ? 0 : one->deputy.pid;
}

restore::Blank ReturningDeputies::take(pid_t pid) {
  One* one = find(pid);
  if (one == nullptr) throw Error(Code::kGone, fmt::format("process {} has ended", pid));
  try {
    return one->exchange.take();
  } catch (const Error& error) {
    if (error.code() == Code::kGone) on_killed(*one);
    throw;
  }
}

bool ReturningDeputies::any_taken() const {
  return std::any_of(all_.begin(), all_.end(),
                     [](const auto& one) { return one->exchange.taken(); });
}

void ReturningDeputies::throw_if_left() const {
  for (const auto& one : all_) {
    if (one->gone || one->exchange.taken()) continue;
    throw Error(Code::kFailed,
                fmt::format("process {} did not come with the others, and nobody has "
                            "told how it ended",
                            one->deputy.pid));
  }
}

bool ReturningDeputies::is_taken_and_killed(const One& one) {
  const pid_t pid = one.deputy.pid;
  return !one.gone && one.exchange.taken() && (tracee::was_killed(pid) || has_ended(pid));
}

pid_t ReturningDeputies::find_killed() const {
  for (const auto& one : all_) {
    if (one->killed || is_taken_and_killed(*one)) return one->deputy.pid;
  }
  return 0;
}

bool ReturningDeputies::are_all_killed() const {
  return std::all_of(all_.begin(), all_.end(),
                     [](const auto& one) { return one->gone || is_taken_and_killed(*one); });
}

std::optional<Error> ReturningDeputies::give_back(restore::TreeRestorer* restorer) {
  std::optional<Error> failed;
  if (restorer != nullptr) restorer->end_made();
  static const UniqueFd kNone;
  for (auto at = all_.rbegin(); at != all_.rend(); ++at) {
    One& one = **at;
    if (one.gone || !one.exchange.taken()) continue;
    try {
      if (is_taken_and_killed(one)) throw Error(Code::kGone, "");
      const UniqueFd* standard_error = one.deputy.standard_error;
      one.exchange.give_back(*restorer, standard_error == nullptr ? kNone : *standard_error);
    } catch (const Error& error) {
      if (error.code() != Code::kGone) failed = error;
      on_killed(one);
    }
  }
  for (const auto& one : all_) {
    if (!one->gone && std::exchange(one->held, false)) one->supervisor().stop(SIGSTOP);
  }
  return failed;
}

std::vector<Event> ReturningDeputies::take_events_of_first() {
  return std::exchange(all_.front()->events, {});
}

std::vector<std::pair<pid_t, Event>> ReturningDeputies::take_events_of_others() {
  std::vector<std::pair<pid_t, Event>> events;
  for (const auto& one : all_) {
    if (one == all_.front()) continue;
    for (const Event& event : std::exchange(one->events, {})) {
      events.emplace_back(one->deputy.own_pid, event);
    }
  }
  return events;
}

}  // namespace telefork::session
