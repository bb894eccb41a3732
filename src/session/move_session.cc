#include "session/move_session.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <utility>

#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "image/writer.h"
#include "kernel/pidfd.h"
#include "migrate/save.h"
#include "session/description.h"
#include "session/hollow.h"
#include "session/hosting.h"
#include "session/image_header.h"

namespace telefork::session {
namespace {

using image::schema::Header;
using protocol::schema::Message;

double since_ms(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

bool is_one_description(pid_t pid, int a, int b) {
  return ::syscall(SYS_kcmp, pid, pid, KCMP_FILE, a, b) == 0;
}

void watch(const UniqueFd& epoll, int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0)
    throw_errno("watching a descriptor");
}

}  // namespace

MoveSession::MoveSession(MoveSettings settings, MoveRequest request)
    : settings_(std::move(settings)),
      request_(std::move(request)),
      signals_({SIGCHLD}),
      interest_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!interest_) throw_errno("making an epoll");
  watch(interest_, signals_.fd());
  if (settings_.wish_fd >= 0) watch(interest_, settings_.wish_fd);
}

MoveSession::~MoveSession() = default;

void MoveSession::step(SourceEvent event) {
  state_ = next_state(state_, event);
  info_.state = std::string(state_name(state_));
  if (registry_) registry_->update(info_);
}

void MoveSession::reach(Step step) {
  report_.shares.push_back({step_name(step), since_ms(std::exchange(last_step_, Clock::now()))});
  settings_.steps.reach(step);
}

void MoveSession::throw_if_ended() {
  while (signals_.try_read()) {
  }
  if (tracee::was_killed(request_.pid)) {
    throw Error(Code::kGone,
                fmt::format("process {} was killed before it was on its way", request_.pid));
  }
  if (settings_.is_unwanted && settings_.is_unwanted()) {
    throw Error(Code::kFailed, fmt::format("interrupted while moving process {}", request_.pid));
  }
}

capture::SurveyOptions MoveSession::survey_options() const {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kMove;
  options.trace_bar = settings_.trace_bar;
  options.copy_shared = request_.copy_shared;
  options.takes_stdin = true;
  return options;
}

// All that can be known while it runs.
void MoveSession::look() {
  opened_.emplace(
      open_node(request_.node, here_, settings_.programs, settings_.access, request_.cpu_force));
  protocol::Link& link = *opened_->link;
  link.set_patience(settings_.lease.kill);
  fence_ = make_fence(*opened_, here_, settings_.registry);
  link.set_interrupt(interest_.get(), [this] { throw_if_ended(); });
  looked_ = migrate::survey_by_pid(request_.pid, survey_options(), {});
  check_user(request_.pid, *opened_);
  check_hosting(*opened_->reply, request_.node.text(), true);
  files_.settle(looked_, link);
  capture::throw_refusals(looked_.refusals);
}

void MoveSession::announce() {
  opened_->link->send([this](Message::Builder message) {
    auto prepare = message.initPrepare();
    prepare.setPurpose(Header::Purpose::MOVE);
    prepare.setWantPid(static_cast<std::uint32_t>(looked_.status.ns_pids.back()));
    prepare.setPidRequired(true);
    prepare.setDescription(info_.command);
    prepare.setCpuForce(request_.cpu_force);
    prepare.setLibcForce(request_.libc_force);
    prepare.setLeaseStopMs(static_cast<std::uint32_t>(settings_.lease.stop.count()));
    prepare.setLeaseKillMs(static_cast<std::uint32_t>(settings_.lease.kill.count()));
  });
}

void MoveSession::tell_streams(const capture::Survey& survey) {
  const unsigned carried = survey.carried_streams();
  const bool joined = (carried & 0b110U) == 0b110U &&
                      is_one_description(request_.pid, STDOUT_FILENO, STDERR_FILENO);
  opened_->link->send([&](Message::Builder message) {
    auto streams = message.initStreams();
    streams.setTakesStdin((carried & 0b001U) != 0);
    streams.setOpen(carried & 0b110U);
    streams.setJoinedOutput(joined);
  });
}

void MoveSession::take_streams(const capture::Survey& survey) {
  UniqueFd streams[3];
  for (int fd = 0; fd < 3; ++fd) {
    if ((survey.carried_streams() >> static_cast<unsigned>(fd) & 1U) == 0) continue;
    streams[fd] = kernel::take_fd(request_.pid, fd);
  }
  if (streams[0]) input_ = streams[0].duplicate();
  if (streams[2]) complaints_ = streams[2].duplicate();
  pump_.emplace(proxy::StdioPump::at_home(*opened_->link, std::move(streams[0]),
                                          std::move(streams[1]), std::move(streams[2])));
}

// Up to the whole image there. It stays parked.
void MoveSession::depart() {
  protocol::Link& link = *opened_->link;
  announce();
  reach(Step::kAnnounced);
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(request_.pid, 0);
  frozen_ = true;
  reach(Step::kFrozen);
  capture::Survey survey =
      capture::survey_process(request_.pid, survey_options(), std::move(looked_));
  if (survey.refusals.empty()) files_.settle(survey, link);
  capture::throw_refusals(survey.refusals);
  tell_streams(survey);
  tracee::ParkedProcess::Options options;
  options.caller = request_.pid;
  options.wait = std::min<std::chrono::nanoseconds>(options.wait, settings_.lease.stop);
  parked_ = std::make_unique<tracee::ParkedProcess>(std::move(frozen), options);
  capture::CaptureSettings capture_settings;
  capture_settings.pagemap = settings_.pagemap;
  capture::Capture capture(survey, parked_->frozen(), parked_->stub(), capture_settings);
  image::Writer writer(link.record_sink(), link.bulk_sink());
  write_header(Header::Purpose::MOVE, here_.reader(), writer);
  capture.write_metadata(writer, [&link] { link.flush_some(); });
  captured_signals_ = capture.pending_signals_of(request_.pid);
  reach(Step::kDescribed);
  capture.write_pages(writer);
  writer.end();
  link.flush();
  report_.bytes_sent = writer.totals().bytes;
  report_.pages_sent = writer.totals().pages;
  take_streams(survey);
  reach(Step::kSent);
}

// The deputy's way to hear of its guest: made while the process can still go on as it was.
void MoveSession::open_session_socket() {
  tracee::SyscallProgram make;
  tracee::Data pair = make.buffer(2 * sizeof(int));
  make.call("making the deputy's socket", SYS_socketpair,
            {AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair});
  int numbers[2];
  const tracee::ProgramRun made = parked_->stub().run(make);
  std::memcpy(numbers, made.data(pair).data(), sizeof(numbers));
  their_socket_ = numbers[0];
  session_socket_ = kernel::take_fd(request_.pid, numbers[1]);
  tracee::SyscallProgram close;
  close.call("closing our end of the deputy's socket", SYS_close, {numbers[1]});
  parked_->stub().run(close);
  if (!session_socket_) throw Error(Code::kFailed, "the deputy's socket is not there");
  tracee::SyscallProgram undo;
  undo.undo(SYS_close, {their_socket_});
  parked_->set_undo(undo);
}

void MoveSession::close_session_socket() {
  if (their_socket_ < 0) return;
  tracee::SyscallProgram close;
  close.call_any("closing the deputy's socket", SYS_close, {std::exchange(their_socket_, -1)});
  parked_->stub().run(close);
}

void MoveSession::give_up() {
  protocol::Link& link = *opened_->link;
  parked_->look_for_timers();
  protocol::ReceivedMessage ready = link.expect_while_heard(Message::READY);
  report_.pid = static_cast<pid_t>(ready->getReady().getPid());
  report_.guest_pid = static_cast<pid_t>(ready->getReady().getGuestPid());
  for (auto warning : ready->getReady().getWarnings()) report_.warnings.emplace_back(warning);
  info_.guest_pid = report_.pid;
  info_.warnings = report_.warnings;
  parked_->hold_for(settings_.lease.home);
  open_session_socket();
  throw_if_ended();
  // From here on it may run there.
  link.set_interrupt(-1, {});
  step(SourceEvent::kReady);
  reach(Step::kGivenUp);
  link.send([](Message::Builder message) { message.setGo(); });
  link.flush();
  reach(Step::kGoSent);
  link.expect_while_heard(Message::STARTED);
  step(SourceEvent::kStarted);
  reach(Step::kStartSeen);
}

// What was pending has gone with it; the deputy is not to send it after. What came since it is to.
void MoveSession::take_stale_signals() {
  if (captured_signals_.empty()) return;
  tracee::SyscallProgram take;
  tracee::Data at_once = take.object(timespec{});
  for (const siginfo_t& info : captured_signals_) {
    std::uint64_t only = std::uint64_t{1} << (info.si_signo - 1);
    take.call_any("taking a signal that has gone", SYS_rt_sigtimedwait,
                  {take.object(only), 0, at_once, sizeof(only)});
  }
  parked_->stub().run(take);
  taken_signals_ = std::exchange(captured_signals_, {});
}

void MoveSession::hollow_out() {
  take_stale_signals();
  hollow(*parked_, {settings_.programs.deputy, their_socket_, session_socket_.get(), 0});
  parked_.reset();
  their_socket_ = -1;
  reach(Step::kHollowed);
  supervisor_.emplace(tracee::StopWatch::adopt(request_.pid), std::move(session_socket_),
                      std::move(complaints_));
}

MoveReport MoveSession::move() {
  auto start = Clock::now();
  last_step_ = start;
  info_.role = "away";
  info_.pid = request_.pid;
  info_.node = request_.node.text();
  info_.state = std::string(state_name(state_));
  try {
    look();
    reach(Step::kChecked);
    info_.command = describe_command(request_.pid);
    registry_.emplace(settings_.registry, info_);
    auto freeze_start = Clock::now();
    depart();
    give_up();
    report_.freeze_ms = since_ms(freeze_start);
    hollow_out();
  } catch (const Error& error) {
    on_failure(error);
  }
  frozen_ = false;
  report_.total_ms = since_ms(start);
  return report_;
}

// Nothing of it runs there when it goes on here.
void MoveSession::on_failure(const Error& error) {
  if (!opened_) throw error;
  protocol::Link& link = *opened_->link;
  link.set_interrupt(-1, {});
  std::string text = error.text();
  if (state_ == SourceState::kSending) {
    roll_back();
    link.fail(error);
  } else {
    step(link.other_end_failed() ? SourceEvent::kFailure : SourceEvent::kLost);
    link.fail(error);
    if (state_ == SourceState::kUnknown) {
      auto deadline = fence_deadline(link.last_heard() + settings_.lease.home);
      bool confirmed = await_fence(fence_.get(), net::Deadline::at(deadline),
                                   [this] { return !tracee::was_killed(request_.pid); });
      step(SourceEvent::kFence);
      if (!confirmed) text += "; nobody there can be asked, and its lease is over";
    }
    roll_back();
  }
  if (error.code() == Code::kGone) frozen_ = false;
  throw Error(error.code(), text);
}

void MoveSession::roll_back() noexcept {
  if (!parked_) return;
  try {
    close_session_socket();
    parked_->roll_back(taken_signals_);
  } catch (const Error&) {
    // It was killed: its parked state goes with it.
    frozen_ = false;
  }
  parked_.reset();
}

void MoveSession::stay(std::function<bool()> may_read_input) {
  for (const std::string& warning : report_.warnings) {
    supervisor_->tell(fmt::format("process {} on {}: {}", request_.pid, info_.node, warning));
  }
  HomeOptions options;
  options.lease = settings_.lease;
  options.fence = fence_.get();
  options.steps = settings_.steps;
  options.may_read_input = std::move(may_read_input);
  Home(*opened_->link, *pump_, *supervisor_, signals_, *registry_, state_, std::move(options))
      .run();
}

}  // namespace telefork::session
