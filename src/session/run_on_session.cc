#include "session/run_on_session.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "deputy/supervisor.h"
#include "image/reader.h"
#include "image/writer.h"
#include "kernel/abi.h"
#include "restore/homecoming.h"
#include "restore/vma_rules.h"
#include "session/agent_socket.h"
#include "session/data_bytes.h"
#include "session/description.h"
#include "session/fence.h"
#include "session/homebound.h"
#include "session/sent_signal.h"
#include "tracee/new_fd.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;
using image::schema::Header;
using protocol::schema::Message;
using tracee::ParkedProcess;

constexpr auto kLastWords = 5s;
constexpr std::size_t kMostRunsKept = 4 << 20;

// The children are at home, and so is who can wait for them.
bool is_about_children(const siginfo_t& info) {
  return info.si_signo == SIGCHLD && info.si_code > 0 && info.si_code != SI_KERNEL;
}

// The node does not know who sent it.
const char* why_killed(int signal) {
  if (signal != SIGKILL) return "";
  return ": by somebody, for want of memory, or by telefork, since f had closed the descriptor "
         "that it was to come home by (closefrom(3))";
}

}  // namespace

// What is not repeated any more is not watched any more.
RunOnSession::RunOnSession(ProgramCall& call, std::optional<RepeatWatch::Packed> watch,
                           KeepWatch keep_watch)
    : call_(call),
      signals_({SIGCHLD}),
      lease_(call.link(), call.settings().lease),
      keep_watch_(std::move(keep_watch)) {
  if (!call.repeats()) watch.reset();
  if (!watch) return;
  watch_ = RepeatWatch::unpack(call.program(), call.settings().pagemap, std::move(*watch));
}

void RunOnSession::step(SourceEvent event) {
  state_ = next_state(state_, event);
  SessionInfo info = registry_->info();
  info.state = std::string(state_name(state_));
  registry_->update(info);
}

void RunOnSession::run(const std::function<void()>& on_started) {
  std::optional<ReceivedSnapshot> received = receive_snapshot(call_.session_socket().get());
  if (!received || received->pid != program()) {
    call_.link().send([](Message::Builder message) { message.setAbort("the program has ended"); });
    call_.link().flush(net::Deadline::in(1s));
    return;
  }
  caller_ = received->message;
  SessionInfo info;
  info.role = "away";
  info.pid = program();
  info.node = call_.node();
  info.state = std::string(state_name(state_));
  info.command = describe_command(program());
  call_.memory().say(info);
  registry_.emplace(call_.settings().registry, SessionInfo());
  try {
    call_.link().set_interrupt(signals_.fd(), [this] { throw_if_killed(); });
    depart(info);
    hand_over(info);
    call_.link().set_interrupt(-1, {});
    on_started();
    await_end();
  } catch (const Error& error) {
    on_failure(error);
  }
}

void RunOnSession::throw_if_killed() {
  while (signals_.try_read()) {
  }
  if (!tracee::was_killed(program())) return;
  throw Error(Code::kGone, "the program was killed before it was on its way");
}

// To the whole image there. The caller sits in its read; anywhere else the result that it is given
// would be another call's.
void RunOnSession::depart(SessionInfo& info) {
  const AgentSettings& settings = call_.settings();
  protocol::Link& link = call_.link();
  call_.ask_ahead_about_files();
  call_.announce(Header::Purpose::RUN_ON, caller_, info.command,
                 watch_ ? watch_->token_of(call_.node()) : std::span<const std::byte>());
  settings.steps.reach(Step::kAnnounced);
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(program(), 0);
  tracee::TracedThread& thread = frozen.thread_seen_as(caller_.tid);
  thread.run_into_system_call(SYS_read);
  const pid_t caller = thread.tid();
  settings.steps.reach(Step::kFrozen);
  capture::Survey survey = call_.survey(program(), caller_);
  for (const capture::Mapping& mapping : survey.mappings) map_.push_back(mapping.vma);
  own_fds_ = survey.own_sockets;
  own_fds_.insert(caller_.session_fd);
  if (caller_.agent_fd >= 0) own_fds_.insert(caller_.agent_fd);
  for (const capture::Descriptor& descriptor : survey.descriptors) {
    sent_fds_.emplace(descriptor.fd, static_cast<std::uint32_t>(descriptor.description));
  }
  call_.tell_streams();
  const std::unique_ptr<capture::KeptThere> kept = receive_kept(survey);
  // The node has something to do now, and need not wait for this.
  registry_->update(info);
  ParkedProcess::Options options;
  options.caller = caller;
  options.awaited_signals = caller_.signal_mask;
  // So much later than its lease says it goes on.
  options.wait = std::min<std::chrono::nanoseconds>(options.wait, settings.lease.stop);
  // Whose verdict nobody would read.
  options.last_words = [this](const Error& error) {
    deputy::tell_on(standard_error_, fmt::format("{}: run_on: {}", call_.node(), error.text()));
  };
  std::vector<kernel::PageRun> in_use;
  if (call_.is_lazy()) in_use = capture::find_places_in_use(frozen);
  capture::LazyPlan plan = call_.memory().plan(survey, std::move(in_use));
  parked_ = std::make_unique<ParkedProcess>(std::move(frozen), options);
  capture::CaptureSettings capture_settings;
  capture_settings.pagemap = settings.pagemap;
  capture_settings.caller = caller;
  capture_settings.system_call_result = TELEFORK_RESUMED;
  capture_settings.pending_signals = false;
  capture_settings.lazy = &plan;
  capture_settings.kept = kept.get();
  capture_settings.guests = [this]() -> tracee::GuestStubs& { return parked_->guests(); };
  capture::Capture capture(survey, parked_->frozen(), parked_->stub(), capture_settings);
  image::Writer writer(link.record_sink(), link.bulk_sink());
  write_header(Header::Purpose::RUN_ON, call_.here().reader(), writer);
  capture.write_metadata(writer, [&link] { link.flush_some(); });
  link.flush_some();
  settings.steps.reach(Step::kDescribed);
  const capture::MemoryTotals totals = capture.write_pages(writer);
  info.pages_sent = totals.pages_sent;
  info.pages_kept = totals.pages_kept;
  pages_ = call_.memory().serve(std::move(plan), program(), false, settings.pagemap);
  writer.end();
  link.flush();
  settings.steps.reach(Step::kSent);
}

std::unique_ptr<capture::KeptThere> RunOnSession::receive_kept(const capture::Survey& survey) {
  std::function<std::vector<kernel::PageRun>()> clean;
  if (watch_ && !watch_->token_of(call_.node()).empty()) {
    clean = [this] { return watch_->clean(map_); };
  }
  return call_.receive_kept(survey, clean);
}

// Its pages have been read, and it stands still.
void RunOnSession::watch_writes() {
  if (!call_.repeats() || !call_.is_kept()) return;
  try {
    if (!watch_) {
      UniqueFd taken = tracee::take_new_fd(parked_->stub(), "making a userfaultfd", SYS_userfaultfd,
                                           {kernel::WriteWatch::flags()});
      if (!taken) return;
      watch_.emplace(program(), call_.settings().pagemap, std::move(taken));
    }
  } catch (const Error& error) {
    if (error.code() != Code::kUnsupported) throw;
    return;
  }
  watch_->protect(map_);
}

// As little as possible lies between the guest's being ready and its start.
void RunOnSession::hand_over(SessionInfo& info) {
  const AgentSettings& settings = call_.settings();
  protocol::Link& link = call_.link();
  standard_error_ = call_.take_stream(program(), 2);
  pump_.emplace(proxy::StdioPump::at_home(link, call_.take_stream(program(), 0),
                                          call_.take_stream(program(), 1),
                                          call_.take_stream(program(), 2)));
  parked_->look_for_timers();
  watch_writes();
  protocol::ReceivedMessage ready = link.expect_while_heard(Message::READY);
  info.guest_pid = static_cast<pid_t>(ready->getReady().getPid());
  info.changes_found_by = change_finder_name(ready->getReady().getChangeFinder());
  same_user_ = ready->getReady().getSameUser();
  for (auto warning : ready->getReady().getWarnings()) info.warnings.emplace_back(warning);
  state_ = next_state(state_, SourceEvent::kReady);
  info.state = std::string(state_name(state_));
  parked_->hold_for(settings.lease.home);
  settings.steps.reach(Step::kGivenUp);
  link.outlive_connection();
  link.send([](Message::Builder message) { message.setGo(); });
  link.flush();
  registry_->update(info);
  settings.steps.reach(Step::kGoSent);
}

void RunOnSession::await_end() {
  while (!over_) poll_once();
}

void RunOnSession::poll_once() {
  protocol::Link& link = call_.link();
  const bool hushed = lease_.is_hushed();
  // While the node is not to hear of home its signals wait here.
  if (!hushed && !parked_->waiting()) parked_->begin_waiting();
  std::vector<pollfd> entries = link.poll_entries();
  entries.push_back({signals_.fd(), POLLIN, 0});
  if (!hushed) pump_->add_interest(entries);
  net::poll_until(
      entries, link.is_ready_now() ? net::Deadline::now() : net::Deadline::at(lease_.next_turn()));
  while (signals_.try_read()) {
  }
  while (auto event = parked_->poll()) on_parked_event(*event);
  if (!hushed) pump_->on_ready(entries);
  while (!over_) {
    auto message = link.try_receive();
    if (!message) break;
    if (!pump_->on_message(*message)) on_message(*message);
  }
  if (!over_ && pages_) pages_->check();
  if (over_) return;
  registry_->tell_connection(!link.is_connected());
  lease_.take_turn();
}

void RunOnSession::on_parked_event(const ParkedProcess::Event& event) {
  switch (event.kind) {
    case ParkedProcess::Event::Kind::kSignal:
      if (is_about_children(event.info)) {
        undelivered_.push_back(event.info);
      } else {
        sent_.push_back(event.info);
        send_signal(event.info);
      }
      break;
    case ParkedProcess::Event::Kind::kStopped:
      if (std::exchange(stopped_, true)) break;
      send_signal(plain_signal(SIGSTOP));
      break;
    case ParkedProcess::Event::Kind::kContinued:
      if (!std::exchange(stopped_, false)) break;
      send_signal(plain_signal(SIGCONT));
      break;
  }
}

void RunOnSession::send_signal(const siginfo_t& info) {
  call_.link().send([&](Message::Builder message) {
    fill_signal(info, is_from_terminal(info), message.initSignal());
  });
}

bool RunOnSession::has_sent(int signal) const {
  return std::any_of(sent_.begin(), sent_.end(),
                     [signal](const siginfo_t& info) { return info.si_signo == signal; });
}

void RunOnSession::stop_taking_signals() {
  if (!parked_->waiting()) return;
  if (std::optional<siginfo_t> last = parked_->end_waiting()) undelivered_.push_back(*last);
}

void RunOnSession::on_message(const protocol::ReceivedMessage& message) {
  switch (message->which()) {
    case Message::STARTED:
      step(SourceEvent::kStarted);
      call_.settings().steps.reach(Step::kStartSeen);
      break;
    case Message::STATUS:
      on_status(message->getStatus());
      break;
    case Message::RETURNING:
      try {
        take_home();
      } catch (Error& error) {
        // The node says so itself.
        if (!call_.link().other_end_failed()) error.add_context(call_.node() + ": on the way home");
        throw;
      }
      break;
    default:
      if (!keep_late_signal(message)) protocol::throw_unexpected(message, "a status");
  }
}

// It came there when the process was on its way home.
bool RunOnSession::keep_late_signal(const protocol::ReceivedMessage& message) {
  if (message->which() != Message::SIGNAL) return false;
  late_.push_back(sent_siginfo(message->getSignal()));
  return true;
}

void RunOnSession::on_status(protocol::schema::Status::Reader status) {
  switch (status.which()) {
    case protocol::schema::Status::EXITED:
      step(SourceEvent::kStatus);
      end_program(status.getExited());
      break;
    case protocol::schema::Status::KILLED: {
      step(SourceEvent::kStatus);
      auto signal = static_cast<int>(status.getKilled().getSignal());
      if (has_sent(signal)) {
        let_program_die(signal);
        break;
      }
      roll_back(Error(Code::kFailed,
                      fmt::format("{}: the process was killed there by signal {} ({}){}",
                                  call_.node(), signal, ::strsignal(signal), why_killed(signal))));
      break;
    }
    case protocol::schema::Status::STOPPED:
      if (!std::exchange(stopped_, true)) ::kill(program(), SIGSTOP);
      return;
    case protocol::schema::Status::CONTINUED:
      if (std::exchange(stopped_, false)) ::kill(program(), SIGCONT);
      return;
  }
  part_from_node();
}

// All of it is received before any of it is applied.
void RunOnSession::take_home() {
  const AgentSettings& settings = call_.settings();
  protocol::Link& link = call_.link();
  stop_taking_signals();
  settings.steps.reach(Step::kReturnSeen);
  restore::HomecomingSettings coming;
  coming.our_socket = call_.session_socket().get();
  coming.their_socket = caller_.session_fd;
  coming.bulk_fd = link.bulk_fd();
  coming.own_fds = own_fds_;
  coming.sent_fds = sent_fds_;
  coming.same_user = same_user_;
  coming.max_map_count = kernel::read_max_map_count();
  coming.pagemap = settings.pagemap;
  if (watch_) coming.watch_fd = watch_->userfaultfd();
  coming.home = std::move(map_);
  restore::Homecoming homecoming(*parked_, std::move(coming));
  image::Reader reader(link.record_source(), &link.bulk_source());
  while (homecoming.take(reader)) lease_.take_turn();
  pages_.reset();
  settings.steps.reach(Step::kTakenHome);
  finish_output();
  std::vector<siginfo_t> all = late_;
  all.insert(all.end(), undelivered_.begin(), undelivered_.end());
  homecoming.apply(all);
  parked_.reset();
  standard_error_.reset();
  step(SourceEvent::kStatus);
  settings.steps.reach(Step::kApplied);
  part_from_node();
}

// Before the program goes on, which writes to the same places.
void RunOnSession::finish_output() {
  protocol::Link& link = call_.link();
  for (;;) {
    while (auto message = link.try_receive()) {
      if (pump_->on_message(*message) || keep_late_signal(*message)) continue;
      protocol::throw_unexpected(*message, "its output");
    }
    if (pump_->idle()) break;
    std::vector<pollfd> entries = link.poll_entries();
    pump_->add_interest(entries);
    net::poll_until(entries, net::Deadline::at(lease_.next_turn()));
    pump_->on_ready(entries);
    lease_.take_turn();
  }
  if (std::optional<Error> loss = pump_->loss()) {
    deputy::tell_on(standard_error_, fmt::format("{}: run_on: {}", call_.node(), loss->text()));
  }
}

// Nothing runs there. Signals that reached it too late are for the program, which runs here.
void RunOnSession::part_from_node() {
  over_ = true;
  protocol::Link& link = call_.link();
  auto deadline = net::Deadline::in(kLastWords);
  try {
    link.close_bulk();
    link.send([](Message::Builder message) { message.setDismiss(); });
    for (;;) {
      protocol::ReceivedMessage message = link.receive(deadline);
      if (message->which() == Message::FINISHED) break;
      if (message->which() == Message::KEPT) {
        remember_kept(message);
      } else if (message->which() == Message::SIGNAL) {
        deliver_signal(program(), message->getSignal());
      }
    }
  } catch (const Error&) {
    // The node is gone, and with it what it had to say.
  }
}

// The node is not to say how much memory is taken here.
void RunOnSession::remember_kept(const protocol::ReceivedMessage& message) {
  const auto kept = message->getKept();
  for (const kernel::PageRun& run : restore::runs_of(kept.getRuns())) {
    const bool behind = kept_there_.empty() || kept_there_.back().end() <= run.start;
    const bool is_one = run.pages > 0 && run.start.value() % kPageSize == 0 &&
                        run.pages <= (~std::uint64_t{0} - run.start.value()) / kPageSize;
    if (!behind || !is_one || kept_there_.size() >= kMostRunsKept) {
      throw Error(Code::kCorrupt, "it tells of kept pages that cannot be");
    }
    kernel::append_run(kept_there_, run);
  }
  if (!kept.getLast() || !watch_) return;
  watch_->remember(call_.node(), copy_bytes(kept.getToken()), std::move(kept_there_));
  keep_watch_(watch_->pack());
}

void RunOnSession::on_failure(const Error& error) {
  protocol::Link& link = call_.link();
  link.set_interrupt(-1, {});
  if (over_) return;
  // Who has ended is the guest: its caller is here, and has lost it.
  Error told = error;
  if (told.code() == Code::kGone) told.set_code(Code::kLost);
  if (state_ == SourceState::kSending) {
    // Nothing has run there: the program need not wait for the node.
    roll_back(told);
    link.fail(error);
    return;
  }
  step(link.other_end_failed() ? SourceEvent::kFailure : SourceEvent::kLost);
  link.fail(error);
  std::string text = error.text();
  if (state_ == SourceState::kUnknown) {
    auto deadline = fence_deadline(link.last_heard() + call_.settings().lease.home);
    bool confirmed = await_fence(call_.fence(), net::Deadline::at(deadline),
                                 [this] { return !has_ended(program()); });
    step(SourceEvent::kFence);
    if (!confirmed) text += "; nobody there can be asked, and its lease is over";
  }
  roll_back(Error(told.code(), text));
}

// The verdict comes first: the caller reads it as soon as it can. What signals have done there is
// undone with the rest, and the program has them again.
void RunOnSession::roll_back(const Error& error) {
  send_verdict(call_.session_socket().get(), error);
  pages_.reset();
  if (!parked_) return;
  try {
    stop_taking_signals();
    std::vector<siginfo_t> all = std::exchange(sent_, {});
    all.insert(all.end(), undelivered_.begin(), undelivered_.end());
    parked_->roll_back(all);
  } catch (const Error& gone) {
    if (gone.code() != Code::kGone) throw;
  }
  parked_.reset();
}

// As exit(3) there has already done what it does in the process.
void RunOnSession::end_program(int status) {
  pages_.reset();
  stop_taking_signals();
  parked_->end(status);
  parked_.reset();
}

// Of a signal that it got here. It is not to leave a core: its memory is of before the call.
void RunOnSession::let_program_die(int signal) {
  pages_.reset();
  stop_taking_signals();
  sent_.clear();
  const kernel::Sigaction by_default{};
  tracee::SyscallProgram program;
  rlimit none{0, 0};
  program.call("forbidding a core", SYS_prlimit64, {0, RLIMIT_CORE, program.object(none), 0});
  program.call_any("giving a signal its default", SYS_rt_sigaction,
                   {signal, program.object(by_default), 0, sizeof(std::uint64_t)});
  program.call("sending the signal", SYS_kill, {caller_.pid, signal});
  try {
    parked_->stub().run(program);
    // It takes effect when the caller has its own mask again.
    roll_back(Error(Code::kFailed, fmt::format("{}: the process was killed by signal {} ({})",
                                               call_.node(), signal, ::strsignal(signal))));
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    parked_.reset();
  }
}

}  // namespace telefork::session
