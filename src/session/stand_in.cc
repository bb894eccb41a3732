#include "session/stand_in.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::session {
namespace {

using protocol::schema::Message;
using tracee::ParkedProcess;

signalfd_siginfo as_read(const siginfo_t& info) {
  signalfd_siginfo read{};
  read.ssi_signo = static_cast<std::uint32_t>(info.si_signo);
  read.ssi_code = info.si_code;
  if (info.si_code != SI_QUEUE) return read;
  read.ssi_pid = static_cast<std::uint32_t>(info.si_pid);
  read.ssi_uid = info.si_uid;
  read.ssi_ptr = reinterpret_cast<std::uintptr_t>(info.si_value.sival_ptr);
  return read;
}

// Of a child that is here too: what that does there its parent hears of there.
bool is_of_child(const siginfo_t& info) { return info.si_signo == SIGCHLD && info.si_code > 0; }

// Whoever it stands for has gone on by itself where this process has continued the one here.
bool is_own(const siginfo_t& info) {
  return info.si_signo == SIGCONT && info.si_code == SI_USER && info.si_pid == ::getpid();
}

}  // namespace

StandIn::StandIn(Parts parts) : parts_(std::move(parts)), lease_(parts_.link, parts_.lease) {
  for (DepartingProcess* process : parts_.processes) {
    seats_.push_back({process, seats_.empty() ? 0 : process->own_pid()});
  }
}

// What is stopped cannot become another program.
bool StandIn::is_over() const {
  if (!all_there_ && !outcome_.ended) return false;
  return std::none_of(seats_.begin(), seats_.end(),
                      [](const Seat& seat) { return seat.stopped || seat.stands_still; });
}

StandIn::Outcome StandIn::run() {
  while (!is_over()) poll_once();
  // It may have been on its way to us.
  for (Seat& seat : seats_) {
    if (std::optional<siginfo_t> last = seat.parked().end_waiting()) owe(seat, *last, 0);
  }
  send_owed();
  return std::move(outcome_);
}

bool StandIn::may_read_input() {
  const bool may_read = !lease_.is_hushed() && (!parts_.may_read_input || parts_.may_read_input());
  parts_.pump.set_input_paused(!may_read);
  return may_read;
}

void StandIn::poll_once() {
  protocol::Link& link = parts_.link;
  const bool hushed = lease_.is_hushed();
  // While the node is not to hear of home its signals wait here.
  for (Seat& seat : seats_) {
    if (!hushed && !seat.parked().waiting() && !seat.stands_still) seat.parked().begin_waiting();
  }
  std::vector<pollfd> entries;
  if (!outcome_.finished) entries = link.poll_entries();
  entries.push_back({parts_.signals.fd(), POLLIN, 0});
  if (!all_there_) entries.push_back({parts_.pages.fd(), POLLIN, 0});
  auto turn = lease_.next_turn();
  if (!may_read_input()) turn = std::min(turn, protocol::Link::Clock::now() + kInputInterval);
  if (!hushed) parts_.pump.add_interest(entries);
  net::poll_until(entries, link.is_ready_now() && !outcome_.finished ? net::Deadline::now()
                                                                     : net::Deadline::at(turn));
  while (parts_.signals.try_read()) {
  }
  look_at_processes();
  if (!lease_.is_hushed()) send_owed();
  may_read_input();
  if (!hushed) parts_.pump.on_ready(entries);
  while (!outcome_.finished) {
    auto message = link.try_receive();
    if (!message) break;
    if (!parts_.pump.on_message(*message)) on_message(std::move(*message));
  }
  parts_.pages.check();
  all_there_ = parts_.pages.progress().complete;
  if (outcome_.finished) return;
  lease_.take_turn();
  if (parts_.on_turn) parts_.on_turn();
}

void StandIn::look_at_processes() {
  for (Seat& seat : seats_) {
    while (auto event = seat.parked().poll()) on_event(seat, *event);
  }
  for (const Seat& seat : seats_) {
    const pid_t pid = seat.process->pid();
    if (!tracee::was_killed(pid)) continue;
    throw Error(Code::kGone, seats_.size() == 1 ? "the process was killed here"
                                                : fmt::format("process {} was killed here", pid));
  }
}

void StandIn::on_event(Seat& seat, const ParkedProcess::Event& event) {
  switch (event.kind) {
    case ParkedProcess::Event::Kind::kSignal:
      on_signal(seat, event.info);
      break;
    case ParkedProcess::Event::Kind::kStopped:
      seat.stands_still = true;
      if (!std::exchange(seat.stopped, true)) owe(seat, plain_signal(SIGSTOP), 0);
      break;
    case ParkedProcess::Event::Kind::kContinued:
      // The signal that has done it is the next to be taken.
      seat.stands_still = false;
      seat.stopped = false;
      break;
  }
}

void StandIn::on_signal(Seat& seat, const siginfo_t& info) {
  const pid_t group = seats_.size() > 1 ? ::getpgid(seat.process->pid()) : 0;
  if (owe(seat, info, std::max(group, 0)) && group > 0) take_from_group(seat, group);
}

// Whether it may have been sent to the whole group, and is the first such one of it.
bool StandIn::owe(Seat& seat, const siginfo_t& info, pid_t group) {
  if (is_own(info) || is_of_child(info)) return false;
  const bool to_group = seat.group_signals.is_to_group(info.si_signo, is_from_terminal(info));
  return owed_signals_.add({seat.guest_pid, group, info.si_signo, to_group, as_read(info)});
}

// What was sent to it is pending at all of it by now, and goes as one (owed_signals.h).
void StandIn::take_from_group(const Seat& seat, pid_t group) {
  for (Seat& other : seats_) {
    if (&other == &seat || ::getpgid(other.process->pid()) != group) continue;
    while (auto event = other.parked().poll()) {
      if (event->kind == ParkedProcess::Event::Kind::kSignal) {
        owe(other, event->info, group);
      } else {
        on_event(other, *event);
      }
    }
    while (!other.stands_still) {
      if (!other.parked().waiting()) other.parked().begin_waiting();
      std::optional<siginfo_t> info = other.parked().end_waiting();
      if (!info) break;
      owe(other, *info, group);
    }
  }
}

void StandIn::send_owed() {
  if (!outcome_.finished) send_signals(owed_signals_, parts_.link);
}

void StandIn::on_message(protocol::ReceivedMessage message) {
  bool is_of_home = false;
  switch (message->which()) {
    case Message::STATUS:
      is_of_home = on_status(message->getStatus());
      break;
    case Message::FINISHED:
      outcome_.finished = true;
      is_of_home = true;
      break;
    default:
      protocol::throw_unexpected(message, "a status");
  }
  if (is_of_home) outcome_.messages.push_back(std::move(message));
}

// Whether it is an end.
bool StandIn::on_status(protocol::schema::Status::Reader status) {
  const auto guest_pid = static_cast<pid_t>(status.getPid());
  auto seat = std::find_if(seats_.begin(), seats_.end(),
                           [guest_pid](const Seat& one) { return one.guest_pid == guest_pid; });
  if (seat == seats_.end()) return false;
  switch (status.which()) {
    case protocol::schema::Status::EXITED:
    case protocol::schema::Status::KILLED:
      outcome_.ended = outcome_.ended || guest_pid == 0;
      go_on(*seat);
      return true;
    case protocol::schema::Status::STOPPED:
      stop(*seat);
      return false;
    case protocol::schema::Status::CONTINUED:
      go_on(*seat);
      return false;
  }
  return false;
}

void StandIn::stop(Seat& seat) {
  if (!std::exchange(seat.stopped, true)) ::kill(seat.process->pid(), SIGSTOP);
}

void StandIn::go_on(Seat& seat) {
  if (std::exchange(seat.stopped, false)) ::kill(seat.process->pid(), SIGCONT);
}

}  // namespace telefork::session
