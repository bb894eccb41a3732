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

constexpr auto kHeartbeatInterval = 2s;
// The keeper kills its guest after 60 s without a word from here: by then it is over there.
constexpr auto kFencedAfter = 90s;
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
    while (!finished_ || end_ || !pump_.idle()) poll_once();
    if (!delivered_) throw Error(Code::kCorrupt, link_.node() + ": it finished without a status");
  } catch (const Error& error) {
    step(error.code() == Code::kLost ? SourceEvent::kLost : SourceEvent::kFailure);
    if (!delivered_ && !deputy_gone_) {
      supervisor_.fail(options_.on_failure ? options_.on_failure(error) : error.text());
    }
  }
  await_deputy();
}

// It may not even have run yet: were its socket closed before it has read how it is to end, it
// would end with 125.
void Home::await_deputy() {
  for (;;) {
    supervisor_.on_sigchld();
    while (auto event = supervisor_.next_event()) {
      if (event->kind == deputy::Event::Kind::kKilled ||
          event->kind == deputy::Event::Kind::kEnded) {
        deputy_gone_ = true;
      }
    }
    if (deputy_gone_) return;
    pollfd entries[] = {{signals_.fd(), POLLIN, 0}, {supervisor_.socket_fd(), POLLIN, 0}};
    net::poll_until(entries, net::Deadline::never());
    while (signals_.try_read()) {
    }
    if (entries[1].revents != 0) supervisor_.on_readable();
  }
}

bool Home::may_read_input() {
  if (!options_.may_read_input) return true;
  bool may_read = options_.may_read_input();
  pump_.set_input_paused(!may_read);
  return may_read;
}

net::Deadline Home::next_turn() {
  if (finished_) return net::Deadline::never();
  if (link_.is_ready_now()) return net::Deadline::now();
  if (may_read_input()) return net::Deadline::at(next_heartbeat_);
  return net::Deadline::at(
      std::min(next_heartbeat_, protocol::Link::Clock::now() + kInputInterval));
}

void Home::poll_once() {
  std::vector<pollfd> entries;
  if (!finished_) entries = link_.poll_entries();
  entries.push_back({signals_.fd(), POLLIN, 0});
  std::size_t deputy_entry = entries.size();
  entries.push_back({supervisor_.socket_fd(), POLLIN, 0});
  net::Deadline deadline = next_turn();
  pump_.add_interest(entries);
  net::poll_until(entries, deadline);

  bool deputy_ready = entries[deputy_entry].revents != 0;
  while (signals_.try_read()) {
  }
  supervisor_.on_sigchld();
  if (deputy_ready && supervisor_.socket_fd() >= 0) supervisor_.on_readable();
  while (auto event = supervisor_.next_event()) on_deputy_event(*event);
  // Once more: it may have left the foreground since, and what is typed now is its shell's.
  may_read_input();
  pump_.on_ready(entries);
  // After that nothing follows: the other end closes, and that is no loss.
  while (!finished_) {
    auto message = link_.try_receive();
    if (!message) break;
    if (!pump_.on_message(*message)) on_message(*message);
  }
  deliver_end();
  if (!finished_) watch_silence();
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
  if (options_.on_end) end = options_.on_end(end);
  if (end.killed) {
    supervisor_.die(end.value);
  } else {
    supervisor_.exit_with(end.value);
  }
}

void Home::send_signal(int number, bool from_terminal, const signalfd_siginfo* info) {
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

void Home::watch_silence() {
  auto now = protocol::Link::Clock::now();
  if (now >= next_heartbeat_) {
    link_.send_heartbeat();
    next_heartbeat_ = now + kHeartbeatInterval;
  }
  if (now - link_.last_heard() >= kFencedAfter) {
    throw Error(Code::kLost, link_.node() + ": nothing was heard from it for 90 s");
  }
}

}  // namespace telefork::session
