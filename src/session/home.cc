#include "session/home.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::session {
namespace {

using protocol::schema::Message;

}  // namespace

void Home::step(SourceEvent event) {
  state_ = next_state(state_, event);
  SessionInfo info = registry_.info();
  info.state = std::string(state_name(state_));
  registry_.update(info);
}

void Home::run() {
  try {
    for (const protocol::ReceivedMessage& message : std::exchange(options_.messages, {})) {
      on_message(message);
    }
    while (!is_home_ && (!finished_ || end_ || !ends_.idle() || !pump_.idle())) poll_once();
    if (is_home_) return;
    if (!delivered_) throw Error(Code::kCorrupt, link_.node() + ": it finished without a status");
  } catch (const Error& error) {
    on_failure(error);
  }
  await_deputies();
}

// Only the node's own word that it has failed says that nothing is left there.
void Home::on_failure(const Error& error) {
  step(link_.other_end_failed() ? SourceEvent::kFailure : SourceEvent::kLost);
  link_.fail(error);
  std::string text = error.text();
  if (state_ == SourceState::kUnknown) {
    bool confirmed = await_fence();
    step(SourceEvent::kFence);
    if (!confirmed) text += "; nobody there can be asked, and its lease is over";
  }
  end_others();
  if (options_.before_end) options_.before_end();
  if (delivered_ || first_.gone) return;
  supervisor_.fail(options_.on_failure ? options_.on_failure(Error(error.code(), text)) : text);
}

// True when the node has confirmed that nothing runs there. Ends early when the pid at home has
// ended. Signals are for a guest that nobody reaches; it is told that it has ended soon.
bool Home::await_fence() {
  const auto deadline = fence_deadline(link_.last_heard() + options_.lease.home);
  using Clock = protocol::Link::Clock;
  for (;;) {
    bool confirmed = options_.fence != nullptr && options_.fence->try_confirm();
    look_at_deputies();
    if (confirmed || (first_.gone && are_others_gone()) || Clock::now() >= deadline)
      return confirmed;
    std::vector<pollfd> entries = {{signals_.fd(), POLLIN, 0}};
    add_deputies(entries);
    if (options_.fence != nullptr) options_.fence->add_interest(entries);
    net::poll_until(entries, net::Deadline::at(std::min<Clock::time_point>(
                                 deadline, Clock::now() + kFenceInterval)));
  }
}

// What is left to be seen of them: their end.
void Home::look_at_deputies() {
  while (signals_.try_read()) {
  }
  for_each_seat([](Seat& seat, deputy::Supervisor& supervisor) {
    supervisor.on_sigchld();
    supervisor.on_readable();
    while (auto event = supervisor.next_event()) {
      if (event->kind == deputy::Event::Kind::kKilled ||
          event->kind == deputy::Event::Kind::kEnded) {
        seat.gone = true;
      }
    }
  });
}

void Home::for_each_seat(const std::function<void(Seat&, deputy::Supervisor&)>& look) {
  if (!first_.gone) look(first_, supervisor_);
  for (Seat& seat : others_) {
    if (!seat.gone) look(seat, *seat.supervisor);
  }
}

void Home::add_deputies(std::vector<pollfd>& entries) {
  for_each_seat([&](Seat&, deputy::Supervisor& supervisor) {
    entries.push_back({supervisor.socket_fd(), POLLIN, 0});
  });
}

bool Home::are_others_gone() const {
  return std::all_of(others_.begin(), others_.end(), [](const Seat& seat) { return seat.gone; });
}

// How they ended is not known.
void Home::end_others() {
  for (Seat& seat : others_) {
    if (!seat.gone) seat.supervisor->exit_with(TELEFORK_FAILED_STATUS);
  }
}

// One may not even have run yet: were its socket closed before it has read how it is to end, it
// would end with 125.
void Home::await_deputies() {
  end_others();
  for (;;) {
    look_at_deputies();
    if (first_.gone && are_others_gone()) return;
    std::vector<pollfd> entries = {{signals_.fd(), POLLIN, 0}};
    add_deputies(entries);
    net::poll_until(entries, net::Deadline::never());
  }
}

bool Home::may_read_input() {
  bool may_read = !is_hushed() && (!options_.may_read_input || options_.may_read_input());
  pump_.set_input_paused(!may_read);
  return may_read;
}

net::Deadline Home::next_turn() {
  if (finished_) return net::Deadline::never();
  if (link_.is_ready_now()) return net::Deadline::now();
  if (may_read_input()) return net::Deadline::at(lease_.next_turn());
  return net::Deadline::at(
      std::min(lease_.next_turn(), protocol::Link::Clock::now() + kInputInterval));
}

void Home::poll_once() {
  std::vector<pollfd> entries;
  if (!finished_) entries = link_.poll_entries();
  entries.push_back({signals_.fd(), POLLIN, 0});
  add_deputies(entries);
  net::Deadline deadline = next_turn();
  bool hushed = is_hushed();
  if (!hushed) pump_.add_interest(entries);
  const std::size_t call_entry = entries.size();
  entries.push_back({may_be_called() ? options_.call_fd : -1, POLLIN, 0});
  net::poll_until(entries, deadline);

  while (signals_.try_read()) {
  }
  for_each_seat([this](Seat& seat, deputy::Supervisor& supervisor) {
    supervisor.on_sigchld();  // which reads what the deputy has said, too
    while (auto event = supervisor.next_event()) on_event(seat, *event);
  });
  // Once more: it may have left the foreground since, and what is typed now is its shell's.
  may_read_input();
  if (!hushed) pump_.on_ready(entries);
  // After that nothing follows: the other end closes, and that is no loss.
  while (!finished_) {
    auto message = link_.try_receive();
    if (!message) break;
    if (!pump_.on_message(*message)) on_message(*message);
  }
  note_loss();
  registry_.tell_connection(!finished_ && !link_.is_connected());
  deliver_end();
  if (finished_) return;
  if (!is_hushed() && are_signals_complete()) send_signals(owed_signals_, link_);
  lease_.take_turn();
  if (options_.on_turn) options_.on_turn();
  if (entries[call_entry].revents != 0 && may_be_called()) {
    send_signals(owed_signals_, link_);
    bring_home();
  }
}

// What happened meanwhile is taken up where it does not come.
void Home::bring_home() {
  using Where = ReturnSession::Where;
  ReturnSession::Outcome outcome = options_.on_call();
  is_home_ = outcome.where == Where::kHome || outcome.ended_there;
  if (is_home_) return;
  if (outcome.where == Where::kGone) {
    first_.gone = true;
    owe_signal(first_, SIGKILL);
  }
  for (const deputy::Event& event : outcome.events) {
    if (event.kind != deputy::Event::Kind::kKilled) on_deputy_event(event);
  }
  for (const auto& [pid, event] : outcome.events_of_others) {
    for (Seat& seat : others_) {
      if (seat.guest_pid == pid && !seat.gone) on_event(seat, event);
    }
  }
  for (const protocol::ReceivedMessage& message : outcome.messages) on_message(message);
  if (outcome.where == Where::kLost) throw Error(*outcome.error);
}

void Home::on_message(const protocol::ReceivedMessage& message) {
  switch (message->which()) {
    case Message::STARTED:
      step(SourceEvent::kStarted);
      options_.steps.reach(Step::kStartSeen);
      break;
    case Message::STATUS:
      on_status(message->getStatus());
      break;
    case Message::FINISHED:
      finished_ = true;
      break;
    default:
      protocol::throw_unexpected(message, "a status");
  }
}

void Home::on_status(protocol::schema::Status::Reader status) {
  if (const auto pid = static_cast<pid_t>(status.getPid()); pid != 0) {
    for (Seat& seat : others_) {
      if (seat.guest_pid == pid) on_status_of_other(seat, status);
    }
    return;
  }
  switch (status.which()) {
    case protocol::schema::Status::EXITED:
      step(SourceEvent::kStatus);
      end_ = End{false, status.getExited()};
      break;
    case protocol::schema::Status::KILLED:
      step(SourceEvent::kStatus);
      end_ = End{true, static_cast<int>(status.getKilled().getSignal())};
      break;
    case protocol::schema::Status::STOPPED:
      if (!first_.gone) supervisor_.stop(static_cast<int>(status.getStopped()));
      break;
    case protocol::schema::Status::CONTINUED:
      if (!first_.gone) supervisor_.resume();
      break;
  }
}

void Home::on_gone(Seat& seat) {
  seat.gone = true;
  if (seat.supervisor != nullptr) ends_.on_gone(*seat.supervisor);
}

// What it has written is the first one's, and nobody at home waits for one that is not.
void Home::on_status_of_other(Seat& seat, protocol::schema::Status::Reader status) {
  if (seat.gone) return;
  switch (status.which()) {
    case protocol::schema::Status::EXITED:
      return ends_.add(*seat.supervisor, {false, status.getExited()});
    case protocol::schema::Status::KILLED:
      return ends_.add(*seat.supervisor, {true, static_cast<int>(status.getKilled().getSignal())});
    case protocol::schema::Status::STOPPED:
      return seat.supervisor->stop(static_cast<int>(status.getStopped()));
    case protocol::schema::Status::CONTINUED:
      return seat.supervisor->resume();
  }
}

// It runs on, and its pid ends with 125 when it has ended; who looks knows before.
void Home::note_loss() {
  if (loss_noted_ || !pump_.loss()) return;
  loss_noted_ = true;
  SessionInfo info = registry_.info();
  info.warnings.push_back(pump_.loss()->text());
  registry_.update(info);
}

// All output is home before the status is.
void Home::deliver_end() {
  if (!end_ || !pump_.idle() || !ends_.idle()) return;
  End end = *end_;
  end_.reset();
  delivered_ = true;
  options_.steps.reach(Step::kEndSeen);
  if (options_.before_end) options_.before_end();
  if (first_.gone) return;
  if (std::optional<Error> loss = pump_.loss()) {
    // It may have ended well, and does not know.
    supervisor_.fail(options_.on_failure ? options_.on_failure(*loss) : loss->text());
    return;
  }
  if (options_.on_end) {
    try {
      end = options_.on_end(end);
    } catch (const Error& error) {
      supervisor_.fail(error.text());
      return;
    }
  }
  if (end.killed) {
    supervisor_.die(end.value);
  } else {
    supervisor_.exit_with(end.value);
  }
  if (options_.on_ended) options_.on_ended();
}

void Home::owe_signal(const Seat& seat, int number) {
  owed_signals_.add({seat.guest_pid, 0, number, false, std::nullopt});
}

void Home::ask_others_of_group(const Seat& seat, pid_t group) {
  for_each_seat([&](Seat& other, deputy::Supervisor& supervisor) {
    if (&other != &seat && ::getpgid(supervisor.pid()) == group) supervisor.ask_for_signals();
  });
}

bool Home::are_signals_complete() {
  bool complete = true;
  if (owed_signals_.empty()) return complete;
  for_each_seat([&](Seat&, deputy::Supervisor& supervisor) {
    if (supervisor.is_asked()) complete = false;
  });
  return complete;
}

void Home::on_home_signal(Seat& seat, const deputy::Event& event) {
  auto number = static_cast<int>(event.info.ssi_signo);
  if ((options_.ignored_signals >> (number - 1) & 1) != 0) return;
  const bool to_group = seat.group_signals.is_to_group(number, event.from_terminal);
  const pid_t pid = (&seat == &first_ ? supervisor_ : *seat.supervisor).pid();
  const pid_t group = others_.empty() || pid == 0 ? 0 : ::getpgid(pid);
  const bool is_first = owed_signals_.add({seat.guest_pid, group, number, to_group, event.info});
  if (is_first && group > 0) ask_others_of_group(seat, group);
}

void Home::on_event(Seat& seat, const deputy::Event& event) {
  switch (event.kind) {
    case deputy::Event::Kind::kReady:
      break;
    case deputy::Event::Kind::kSignal:
      on_home_signal(seat, event);
      break;
    case deputy::Event::Kind::kStopped:
      owe_signal(seat, SIGSTOP);
      break;
    case deputy::Event::Kind::kParentDied:
      owe_signal(seat, SIGKILL);
      break;
    case deputy::Event::Kind::kKilled:
      on_gone(seat);
      if (&seat != &first_ || !delivered_) owe_signal(seat, SIGKILL);
      break;
    case deputy::Event::Kind::kEnded:
      on_gone(seat);
      break;
  }
}

}  // namespace telefork::session
