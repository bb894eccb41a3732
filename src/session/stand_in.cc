#include "session/stand_in.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <utility>

#include <unistd.h>

#include "base/error.h"
#include "session/sent_signal.h"

namespace telefork::session {
namespace {

using protocol::schema::Message;
using tracee::ParkedProcess;

}  // namespace

// What is stopped cannot become another program.
bool StandIn::is_over() const {
  return (all_there_ || outcome_.ended) && !stopped_ && !stands_still_;
}

StandIn::Outcome StandIn::run() {
  while (!is_over()) poll_once();
  // It may have been on its way to us.
  if (std::optional<siginfo_t> last = parked().end_waiting()) send_signal(*last);
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
  if (!hushed && !parked().waiting() && !stands_still_) parked().begin_waiting();
  std::vector<pollfd> entries;
  if (!finished_) entries = link.poll_entries();
  entries.push_back({parts_.signals.fd(), POLLIN, 0});
  if (!all_there_) entries.push_back({parts_.pages.fd(), POLLIN, 0});
  auto turn = lease_.next_turn();
  if (!may_read_input()) turn = std::min(turn, protocol::Link::Clock::now() + kInputInterval);
  if (!hushed) parts_.pump.add_interest(entries);
  net::poll_until(
      entries, link.is_ready_now() && !finished_ ? net::Deadline::now() : net::Deadline::at(turn));
  while (parts_.signals.try_read()) {
  }
  while (auto event = parked().poll()) on_event(*event);
  if (tracee::was_killed(parts_.process.pid())) {
    throw Error(Code::kGone, "the process was killed here");
  }
  may_read_input();
  if (!hushed) parts_.pump.on_ready(entries);
  while (!finished_) {
    auto message = link.try_receive();
    if (!message) break;
    if (!parts_.pump.on_message(*message)) on_message(std::move(*message));
  }
  parts_.pages.check();
  all_there_ = parts_.pages.progress().complete;
  if (finished_) return;
  lease_.take_turn();
  if (parts_.on_turn) parts_.on_turn();
}

void StandIn::on_event(const ParkedProcess::Event& event) {
  switch (event.kind) {
    case ParkedProcess::Event::Kind::kSignal:
      send_signal(event.info);
      break;
    case ParkedProcess::Event::Kind::kStopped:
      stands_still_ = true;
      if (!std::exchange(stopped_, true)) send_signal(plain_signal(SIGSTOP));
      break;
    case ParkedProcess::Event::Kind::kContinued:
      // The signal that has done it is the next to be taken.
      stands_still_ = false;
      stopped_ = false;
      break;
  }
}

void StandIn::send_signal(const siginfo_t& info) {
  if (finished_) return;
  // The guest has gone on by itself where this process has continued the one here.
  const bool is_own = info.si_code == SI_USER && info.si_pid == ::getpid();
  if (info.si_signo == SIGCONT && is_own) return;
  const bool to_group = group_signals_.is_to_group(info.si_signo, is_from_terminal(info));
  parts_.link.send(
      [&](Message::Builder message) { fill_signal(info, to_group, message.initSignal()); });
}

void StandIn::on_message(protocol::ReceivedMessage message) {
  switch (message->which()) {
    case Message::STATUS:
      if (message->getStatus().getPid() == 0) on_status(message->getStatus());
      break;
    case Message::FINISHED:
      finished_ = true;
      break;
    default:
      protocol::throw_unexpected(message, "a status");
  }
  if (outcome_.ended) outcome_.messages.push_back(std::move(message));
}

void StandIn::on_status(protocol::schema::Status::Reader status) {
  switch (status.which()) {
    case protocol::schema::Status::EXITED:
    case protocol::schema::Status::KILLED:
      outcome_.ended = true;
      go_on();
      break;
    case protocol::schema::Status::STOPPED:
      stop();
      break;
    case protocol::schema::Status::CONTINUED:
      go_on();
      break;
  }
}

void StandIn::stop() {
  if (!std::exchange(stopped_, true)) ::kill(parts_.process.pid(), SIGSTOP);
}

void StandIn::go_on() {
  if (std::exchange(stopped_, false)) ::kill(parts_.process.pid(), SIGCONT);
}

}  // namespace telefork::session
