#include "session/move_session.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>
#include <utility>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "image/writer.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_file.h"
#include "session/hollow.h"
#include "session/image_header.h"

namespace telefork::session {

using image::schema::Header;
using protocol::schema::Message;

namespace {

// Two of them.
std::vector<int> lowest_free_numbers(pid_t pid) {
  const std::vector<int> taken = kernel::list_fds(pid);
  std::vector<int> free;
  for (int fd = 0; free.size() < 2; ++fd) {
    if (std::find(taken.begin(), taken.end(), fd) == taken.end()) free.push_back(fd);
  }
  return free;
}

}  // namespace

MoveSession::MoveSession(DepartureSettings settings, DepartureRequest request)
    : Departure(std::move(settings), std::move(request), "moving") {}

capture::SurveyOptions MoveSession::survey_options() const {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kMove;
  options.trace_bar = settings_.trace_bar;
  options.copy_shared = request_.copy_shared;
  options.takes_stdin = !request_.detach;
  options.detached = request_.detach;
  if (request_.agent_fd >= 0) options.own_fds.insert(request_.agent_fd);
  if (caller_) options.own_fds.insert(caller_->session_fd);
  return options;
}

// Up to the whole image there. It stays parked.
void MoveSession::depart() {
  announce();
  reach(Step::kAnnounced);
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(request_.pid, 0);
  // From its filters' being in force again it might not end as it is to.
  frozen.suspend_seccomp(PTRACE_O_EXITKILL);
  frozen_ = true;
  pid_t caller = request_.pid;
  if (caller_) {
    // Anywhere else the result that it is given would be another call's.
    tracee::TracedThread& thread = frozen.thread_seen_as(caller_->tid);
    thread.run_into_system_call(SYS_read);
    caller = thread.tid();
  }
  reach(Step::kFrozen);
  capture::Survey survey = look_again(survey_options());
  tell_streams(survey);
  tracee::ParkedProcess::Options options;
  options.caller = request_.pid;  // who becomes the deputy
  options.wait = std::min<std::chrono::nanoseconds>(options.wait, settings_.lease.stop);
  parked_ = std::make_unique<tracee::ParkedProcess>(std::move(frozen), options);
  capture::CaptureSettings capture_settings;
  capture_settings.pagemap = settings_.pagemap;
  if (caller_) {
    capture_settings.caller = caller;
    capture_settings.system_call_result = TELEFORK_RESUMED;
  }
  capture::Capture capture(survey, parked_->frozen(), parked_->stub(), capture_settings);
  image::Writer writer(link().record_sink(), link().bulk_sink());
  write_header(Header::Purpose::MOVE, here_.reader(), writer);
  capture.write_metadata(writer, [this] { link().flush_some(); });
  captured_signals_ = capture.pending_signals_of(request_.pid);
  reach(Step::kDescribed);
  capture.write_pages(writer);
  writer.end();
  link().flush();
  report_.bytes_sent = writer.totals().bytes;
  report_.pages_sent = writer.totals().pages;
  take_streams(survey);
  reach(Step::kSent);
}

// The deputy's way to hear of its guest: made while the process can still go on as it was. Nothing
// of it runs, so that the numbers which it gets are known before.
void MoveSession::open_session_socket() {
  close_on_death(lowest_free_numbers(request_.pid));
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
  close_on_death({their_socket_});
}

// If this process dies.
void MoveSession::close_on_death(const std::vector<int>& fds) {
  tracee::SyscallProgram undo;
  for (int fd : fds) undo.undo(SYS_close, {fd});
  parked_->set_undo(undo);
}

void MoveSession::close_session_socket() {
  if (their_socket_ < 0) return;
  tracee::SyscallProgram close;
  close.call_any("closing the deputy's socket", SYS_close, {std::exchange(their_socket_, -1)});
  parked_->stub().run(close);
}

void MoveSession::give_up() {
  parked_->look_for_timers();
  await_ready();
  // Whenever it waits without this process it is to be found.
  parked_->hold_for({});
  if (!request_.detach) open_session_socket();
  tell_hold(false);
  parked_->set_lease(settings_.lease.home);
  // From here on it may run there.
  send_go();
  await_started();
}

// For whoever finds it without this process.
void MoveSession::tell_hold(bool without_end) {
  info_.hold = Hold{parked_->held_process(), without_end, make_fence_key(*opened_)};
  tell_registry();
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
  info_.hold.reset();
  tell_registry();
  reach(Step::kHollowed);
  supervisor_.emplace(tracee::StopWatch::adopt(request_.pid), std::move(session_socket_),
                      std::move(complaints_));
}

// Until the node has answered nobody knows where it is to be. From then on it is there, whatever
// becomes of this process.
void MoveSession::let_go() {
  parked_->set_lease(tracee::ParkedProcess::kWithoutEnd);
  tell_hold(true);
  may_stay_there_ = true;
  reach(Step::kHeldBack);
  link().send([](Message::Builder message) { message.setDismiss(); });
  link().flush();
  reach(Step::kDismissed);
  // How it fares there is nobody's business here.
  while (link().receive_while_heard()->which() != Message::FINISHED) {
  }
  tracee::SyscallProgram end;
  end.undo(SYS_exit_group, {0});
  parked_->set_undo(end);
  reach(Step::kLetGo);
  end_here();
}

DepartureReport MoveSession::run() {
  begin();
  try {
    look(survey_options());
    reach(Step::kChecked);
    registry_.emplace(settings_.registry, info_);
    if (settings_.await_caller) caller_ = settings_.await_caller();
    const Clock::time_point freeze_start = Clock::now();
    depart();
    give_up();
    report_.freeze_ms = ms_since(freeze_start);
    request_.detach ? let_go() : hollow_out();
    if (!request_.detach) call_.emplace(settings_.registry);
  } catch (const Error& error) {
    on_failure(error);
  }
  frozen_ = false;
  return report_;
}

// Nothing of it runs there when it goes on here.
void MoveSession::on_failure(const Error& error) {
  if (!opened_) throw error;
  link().set_interrupt(-1, {});
  std::string text = error.text();
  if (state_ == SourceState::kSending) {
    roll_back();
    link().fail(error);
  } else {
    text = await_end_there(error);
    if (may_stay_there_ && !is_known_not_to_run()) {
      leave_held();
      text += fmt::format(
          "; it may run there, and is held here, whole: `telefork resume {0}` ends what is there "
          "and "
          "takes it up, `kill -9 {0}` leaves it there",
          request_.pid);
    } else {
      roll_back();
    }
  }
  if (error.code() == Code::kGone) frozen_ = false;
  throw Error(error.code(), text);
}

void MoveSession::end_here() noexcept {
  frozen_ = false;
  try {
    if (parked_) parked_->end(0);
  } catch (const Error&) {
    // It was killed.
  }
  parked_.reset();
}

// The state that the registry is left in says what was heard last.
void MoveSession::leave_held() noexcept {
  frozen_ = false;
  try {
    parked_->leave_held();
    registry_->leave();
  } catch (const Error&) {
    // It was killed.
  }
  parked_.reset();
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
  if (request_.detach) return;
  HomeOptions options;
  options.call_fd = call_->fd();
  options.on_call = [this] { return bring_home(); };
  options.on_turn = [this] { let_go_of_closed_streams(); };
  stay_home(*supervisor_, may_read_input, std::move(options));
  finish_at_home(may_read_input);
}

}  // namespace telefork::session
