#include "session/home.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;
using protocol::schema::Message;

// How soon a terminal's input is read after its reader came to the foreground, which no event
// tells.
constexpr auto kInputInterval = 200ms;

}  // namespace

void Home::step(SourceEvent event) {
  state_ = next_state(state_, event);
  SessionInfo info = registry_.info();
  info.state = std::string(state_name(state_));
  registry_.update(info);
}

void Home::run() {
  try {
    while (!is_home_ && (!finished_ || end_ || !pump_.idle())) poll_once();
    if (is_home_) return;
    if (!delivered_) throw Error(Code::kCorrupt, link_.node() + ": it finished without a status");
  } catch (const Error& error) {
    on_failure(error);
  }
  await_deputy();
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
  if (delivered_ || deputy_gone_) return;
  supervisor_.fail(options_.on_failure ? options_.on_failure(Error(error.code(), text)) : text);
}

// True when the node has confirmed that nothing runs there. Ends early when the pid at home has
// ended. Signals are for a guest that nobody reaches; it is told that it has ended soon.
bool Home::await_fence() {
  const auto deadline = fence_deadline(link_.last_heard() + options_.lease.home);
  using Clock = protocol::Link::Clock;
  for (;;) {
    bool confirmed = options_.fence != nullptr && options_.fence->try_confirm();
    look_at_deputy();
    if (confirmed || deputy_gone_ || Clock::now() >= deadline) return confirmed;
    std::vector<pollfd> entries = {{signals_.fd(), POLLIN, 0},
                                   {supervisor_.socket_fd(), POLLIN, 0}};
    if (options_.fence != nullptr) options_.fence->add_interest(entries);
    net::poll_until(entries, net::Deadline::at(std::min<Clock::time_point>(
                                 deadline, Clock::now() + kFenceInterval)));
  }
}

// What is left to be seen of it: its end.
void Home::look_at_deputy() {
  while (signals_.try_read()) {
  }
  supervisor_.on_sigchld();
  supervisor_.on_readable();
  while (auto event = supervisor_.next_event()) {
    if (event->kind == deputy::Event::Kind::kKilled || event->kind == deputy::Event::Kind::kEnded) {
      deputy_gone_ = true;
    }
  }
}

// It may not even have run yet: were its socket closed before it has read how it is to end, it
// would end with 125.
void Home::await_deputy() {
  for (;;) {
    look_at_deputy();
    if (deputy_gone_) return;
    pollfd entries[] = {{signals_.fd(), POLLIN, 0}, {supervisor_.socket_fd(), POLLIN, 0}};
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
  std::size_t deputy_entry = entries.size();
  entries.push_back({supervisor_.socket_fd(), POLLIN, 0});
  net::Deadline deadline = next_turn();
  bool hushed = is_hushed();
  if (!hushed) pump_.add_interest(entries);
  const std::size_t call_entry = entries.size();
  entries.push_back({may_be_called() ? options_.call_fd : -1, POLLIN, 0});
  net::poll_until(entries, deadline);

  bool deputy_ready = entries[deputy_entry].revents != 0;
  while (signals_.try_read()) {
  }
  supervisor_.on_sigchld();
  if (deputy_ready && supervisor_.socket_fd() >= 0) supervisor_.on_readable();
  while (auto event = supervisor_.next_event()) on_deputy_event(*event);
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
  deliver_end();
  if (finished_) return;
  if (!is_hushed()) send_held_signals();
  lease_.take_turn();
  if (options_.on_turn) options_.on_turn();
  if (entries[call_entry].revents != 0 && may_be_called()) bring_home();
}

// What happened meanwhile is taken up where it does not come.
void Home::bring_home() {
  using Where = ReturnSession::Where;
  ReturnSession::Outcome outcome = options_.on_call();
  is_home_ = outcome.where == Where::kHome || outcome.ended_there;
  if (is_home_) return;
  if (outcome.where == Where::kGone) {
    deputy_gone_ = true;
    send_signal(SIGKILL, false, nullptr);
  }
  for (const deputy::Event& event : outcome.events) {
    if (event.kind != deputy::Event::Kind::kKilled) on_deputy_event(event);
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
      if (!deputy_gone_) supervisor_.stop(static_cast<int>(status.getStopped()));
      break;
    case protocol::schema::Status::CONTINUED:
      if (!deputy_gone_) supervisor_.resume();
      break;
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
  if (!end_ || !pump_.idle()) return;
  End end = *end_;
  end_.reset();
  delivered_ = true;
  options_.steps.reach(Step::kEndSeen);
  if (deputy_gone_) return;
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

void Home::send_held_signals() {
  for (const HeldSignal& held : std::exchange(held_signals_, {})) {
    send_signal(held.number, held.from_terminal, held.info ? &*held.info : nullptr);
  }
}

void Home::send_signal(int number, bool from_terminal, const signalfd_siginfo* info) {
  if (is_hushed()) {
    held_signals_.push_back({number, from_terminal, std::nullopt});
    if (info != nullptr) held_signals_.back().info = *info;
    return;
  }
  link_.send([&](Message::Builder message) {
    auto signal = message.initSignal();
    signal.setNumber(static_cast<std::uint32_t>(number));
    signal.setFromTerminal(from_terminal);
    if (info == nullptr || info->ssi_code != SI_QUEUE) return;
    siginfo_t raw{};
    raw.si_signo = number;
    raw.si_code = SI_QUEUE;
    raw.si_pid = static_cast<pid_t>(info->ssi_pid);
    raw.si_uid = info->ssi_uid;
    raw.si_value.sival_ptr = reinterpret_cast<void*>(info->ssi_ptr);
    signal.setSiginfo(::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(&raw), sizeof(raw)));
  });
}

void Home::on_home_signal(const deputy::Event& event) {
  auto number = static_cast<int>(event.info.ssi_signo);
  if ((options_.ignored_signals >> (number - 1) & 1) != 0) return;
  bool to_group = event.from_terminal;
  if (number == SIGTSTP || number == SIGTTIN || number == SIGTTOU) {
    stopped_by_terminal_ = event.from_terminal;
  } else if (number == SIGCONT && std::exchange(stopped_by_terminal_, false)) {
    // A shell continues a job by killpg(2), which cannot be told from kill(2): all that the
    // terminal has stopped goes on.
    to_group = true;
  }
  send_signal(number, to_group, &event.info);
}

void Home::on_deputy_event(const deputy::Event& event) {
  switch (event.kind) {
    case deputy::Event::Kind::kReady:
      break;
    case deputy::Event::Kind::kSignal:
      on_home_signal(event);
      break;
    case deputy::Event::Kind::kStopped:
      send_signal(SIGSTOP, false, nullptr);
      break;
    case deputy::Event::Kind::kParentDied:
      send_signal(SIGKILL, false, nullptr);
      break;
    case deputy::Event::Kind::kKilled:
      deputy_gone_ = true;
      if (!delivered_) send_signal(SIGKILL, false, nullptr);
      break;
    case deputy::Event::Kind::kEnded:
      deputy_gone_ = true;
      break;
  }
}

}  // namespace telefork::session
