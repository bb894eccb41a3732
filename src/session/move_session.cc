#include "session/move_session.h"

#include <algorithm>
#include <csignal>
#include <iterator>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "image/writer.h"
#include "kernel/pidfd.h"
#include "session/image_header.h"

namespace telefork::session {

using image::schema::Header;
using protocol::schema::Message;

namespace {

// As a deputy whose session has ended.
constexpr int kEndedBySession = 125;

}  // namespace

MoveSession::MoveSession(DepartureSettings settings, DepartureRequest request)
    : Departure(std::move(settings), std::move(request), "moving") {
  // As long as something is missing it depends on two machines: whoever moves it says whether it
  // may.
  if (!settings_.laziness.process_kb) settings_.laziness.process_kb = Laziness::kNever;
}

capture::SurveyOptions MoveSession::survey_options() const {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kMove;
  options.trace_bar = settings_.trace_bar;
  options.copy_shared = request_.copy_shared;
  options.takes_stdin = !request_.detach;
  options.detached = request_.detach;
  options.asker = request_.asker;
  if (request_.keeper) {
    options.keeper = request_.keeper->keeper;
    options.own_namespaces = request_.keeper->namespaces;
  }
  if (request_.agent_fd >= 0) options.own_fds.insert(request_.agent_fd);
  if (caller_) options.own_fds.insert(caller_->session_fd);
  return options;
}

void MoveSession::park(tracee::FrozenTree frozen, const capture::TreeSurvey& tree) {
  tracee::ParkedProcess::Options options;
  options.wait = std::min<std::chrono::nanoseconds>(options.wait, settings_.lease.stop);
  for (const capture::Survey& member : tree.members) {
    processes_.push_back(
        std::make_unique<DepartingProcess>(std::move(frozen.of(member.pid)), options));
  }
  going_.clear();
  for (const auto& process : processes_) going_.push_back(process->pid());
}

// What has become of them since they were lent.
void MoveSession::tell_keeper(tracee::FrozenTree& frozen) {
  if (!loan_) return;
  const std::map<pid_t, bool> lent = loan_->members();
  for (const auto& [pid, stopped] : lent) {
    const auto process =
        std::find_if(frozen.processes().begin(), frozen.processes().end(),
                     [pid = pid](const auto& candidate) { return candidate.pid() == pid; });
    if (process == frozen.processes().end()) {
      loan_->tell(pid, kEndedBySession << 8);
    } else {
      loan_->tell_stopped(pid, process->leader().in_group_stop());
    }
  }
}

// Killed while it stood still: nobody else tells of that.
void MoveSession::tell_keeper_of_lost() {
  if (!loan_) return;
  for (const auto& process : processes_) {
    std::optional<deputy::Supervisor>& supervisor = process->supervisor();
    if (!supervisor || !supervisor->is_watching()) loan_->tell(process->pid(), SIGKILL);
  }
}

// Up to the whole image there. All stay parked.
void MoveSession::depart() {
  announce();
  reach(Step::kAnnounced);
  image::Writer writer(link().record_sink(), link().bulk_sink());
  show_progress_of(writer);
  if (memory_.is_live()) {
    write_header(Header::Purpose::MOVE, here_.reader(), writer);
    send_rounds(writer);
  }
  freeze_start_ = Clock::now();
  borrow();
  tracee::FrozenTree frozen = freeze();
  tell_keeper(frozen);
  // From its filters' being in force again it might not end as it is to.
  for (tracee::FrozenProcess& process : frozen.processes()) {
    process.suspend_seccomp(PTRACE_O_EXITKILL);
  }
  frozen_ = true;
  frozen_at_ = time_since_boot();
  capture::CaptureSettings capture_settings;
  capture_settings.pagemap = settings_.pagemap;
  capture::CaptureSettings of_first = capture_settings;
  if (caller_) {
    // Anywhere else the result that it is given would be another call's.
    tracee::TracedThread& thread = frozen.of(request_.pid).thread_seen_as(caller_->tid);
    thread.run_into_system_call(SYS_read);
    of_first.caller = thread.tid();
    of_first.system_call_result = TELEFORK_RESUMED;
  }
  reach(Step::kFrozen);
  capture::SurveyOptions as_frozen = survey_options();
  as_frozen.known_tree = &frozen.all();
  as_frozen.known_copied = &frozen.copied();
  as_frozen.settled_later = true;
  std::vector<kernel::Vma> map;
  const std::unique_ptr<capture::LivePlan> live = end_rounds(frozen, map);
  if (live) as_frozen.map = &map;
  of_first.live = live.get();
  capture::TreeSurvey tree = look_again(as_frozen);
  of_first.before_threads = [&] {
    capture::settle(as_frozen, tree.first());
    capture::throw_refusals(tree.first().refusals);
  };
  for (tracee::FrozenProcess& process : frozen.processes()) {
    if (process.leader().in_group_stop()) tree.stopped.insert(process.pid());
  }
  tell_streams(tree.first());
  if (!memory_.is_live()) write_header(Header::Purpose::MOVE, here_.reader(), writer);
  capture::write_tree(tree, writer);
  std::vector<capture::LazyPlan> plans = memory_.plan_all(tree, frozen);
  park(std::move(frozen), tree);
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    capture::CaptureSettings& own = i == 0 ? of_first : capture_settings;
    own.lazy = &plans[i];
    processes_[i]->write(tree, i, own, writer, [this] { link().flush_some(); });
    if (i == 0) reach(Step::kDescribed);
  }
  pages_ = memory_.serve_all(std::move(plans), going_, false, settings_.pagemap);
  writer.end();
  link().flush();
  // The destination has enough to do.
  capture::settle_rest(tree.first());
  capture::throw_refusals(tree.first().refusals);
  for (const capture::PtyObject& pty : tree.first().ptys) {
    if (pty.session != 0) terminals_[pty.session] = kernel::take_fd(pty.pid, pty.fd);
  }
  report_.processes = processes_.size();
  report_.bytes_sent = writer.totals().bytes;
  report_.bytes_saved = link().bulk_bytes_saved();
  report_.pages_sent = writer.totals().pages;
  take_streams(tree.first());
  reach(Step::kSent);
}

// Of several each waits no longer than the others: the lease comes when all wait.
void MoveSession::give_up() {
  for (const auto& process : processes_) process->parked().look_for_timers();
  await_ready();
  const bool several = processes_.size() > 1;
  // Whenever one waits without this process it is to be found.
  for (const auto& process : processes_) process->parked().hold_for({});
  if (several) common_end_.emplace();
  for (const auto& process : processes_) {
    if (!request_.detach || several) {
      process->open_session_socket(common_end_ ? &*common_end_ : nullptr);
    }
  }
  tell_hold(false);
  set_lease(settings_.lease.home);
  // From here on it may run there.
  send_go();
  await_started();
}

// For whoever finds it without this process.
void MoveSession::tell_hold(bool without_end) {
  info_.hold = Hold{{}, without_end, make_fence_key(*opened_), false, frozen_at_};
  for (const auto& process : processes_) {
    info_.hold->members.push_back(process->held());
    if (loan_) loan_->tell_held(info_.hold->members.back().process);
  }
  info_.follows = pages_ != nullptr;
  tell_registry();
}

// How long what waits is to wait if this process dies: of several it is one instant for all, before
// which none has it.
void MoveSession::set_lease(std::chrono::nanoseconds lease) {
  if (common_end_) return common_end_->set_lease(lease);
  processes_.front()->parked().set_lease(lease);
}

// Of several there is no way back when the first of them is the deputy: from the decision on none
// runs here again, whoever of the others is killed, and whatever becomes of this process.
void MoveSession::hollow_out() {
  for (const auto& process : processes_) process->take_stale_signals();
  if (common_end_) {
    open_file(settings_.programs.deputy, O_PATH);
    common_end_->decide();
    reach(Step::kDecided);
  }
  for (auto process = processes_.rbegin(); process != processes_.rend(); ++process) {
    const bool first = std::next(process) == processes_.rend();
    try {
      (*process)->hollow_out(settings_.programs.deputy, first,
                             first ? std::move(complaints_) : UniqueFd());
    } catch (const Error& error) {
      if (first || error.code() != Code::kGone) throw;
      on_killed(**process);
    }
    if (process == processes_.rbegin() && !first) reach(Step::kOneHollow);
  }
  report_changes();
  info_.hold.reset();
  info_.follows = false;
  tell_registry();
  reach(Step::kHollowed);
}

// Their keeper hears of them what it would have seen.
void MoveSession::report_changes() {
  if (!loan_) return;
  for (const auto& process : processes_) {
    std::optional<deputy::Supervisor>& supervisor = process->supervisor();
    if (!supervisor) continue;
    supervisor->on_change([this, pid = process->pid()](int status) { loan_->tell(pid, status); });
  }
}

void MoveSession::on_killed(DepartingProcess& process) {
  process.end(kEndedBySession);
  link().send([&](Message::Builder message) {
    auto signal = message.initSignal();
    signal.setNumber(SIGKILL);
    signal.setPid(static_cast<std::uint32_t>(process.own_pid()));
  });
}

// Until the node has answered nobody knows where it is to be. From then on it is there, whatever
// becomes of this process.
void MoveSession::let_go() {
  set_lease(tracee::ParkedProcess::kWithoutEnd);
  tell_hold(true);
  may_stay_there_ = true;
  reach(Step::kHeldBack);
  link().send([](Message::Builder message) { message.setDismiss(); });
  link().flush();
  reach(Step::kDismissed);
  // How it fares there is nobody's business here.
  while (link().receive_while_heard()->which() != Message::FINISHED) {
  }
  if (common_end_) {
    common_end_->decide();
  } else {
    tracee::SyscallProgram end;
    end.undo(SYS_exit_group, {0});
    processes_.front()->parked().set_undo(end);
  }
  reach(Step::kLetGo);
  end_here(0);
}

DepartureReport MoveSession::run() {
  begin();
  try {
    look(survey_options());
    reach(Step::kChecked);
    registry_.emplace(settings_.registry, info_);
    if (settings_.await_caller) caller_ = settings_.await_caller();
    depart();
    give_up();
    report_.freeze_ms = ms_since(freeze_start_);
    if (pages_) {
      set_lease(tracee::ParkedProcess::kWithoutEnd);
      tell_hold(true);
      for (const auto& process : processes_) process->take_stale_signals();
    }
    if (request_.detach) {
      if (!pages_ || stand_in({})) let_go();
    } else {
      if (!pages_) hollow_out();
      call_.emplace(settings_.registry);
    }
    rounds_.reset();
  } catch (const Error& error) {
    on_failure(error);
  }
  frozen_ = false;
  return report_;
}

// Nothing of it runs there when it goes on here.
void MoveSession::on_failure(const Error& error) {
  if (!opened_) throw error;
  if (rounds_ && rounds_->has_stopped()) frozen_ = true;
  rounds_.reset();
  link().set_interrupt(-1, {});
  std::string text = error.text();
  if (state_ == SourceState::kSending) {
    pages_.reset();
    roll_back();
    link().fail(error);
  } else if (pages_ && state_ != SourceState::kGivenUp) {
    text = lose_held(error);
  } else {
    text = await_end_there(error);
    pages_.reset();
    if (common_end_ && common_end_->decided() && !may_stay_there_) {
      end_here(kEndedBySession);
      text += "; some of its processes had become deputies, and all have ended here";
    } else if (may_stay_there_ && !is_known_not_to_run()) {
      leave_held();
      text += fmt::format(
          "; it may run there, and is held here, whole: `telefork resume {0}` ends what is there "
          "and takes it up, `kill -9 {0}` leaves it there",
          request_.pid);
    } else {
      roll_back();
    }
  }
  if (error.code() == Code::kGone && going_.size() == 1) frozen_ = false;
  throw Error(error.code(), text);
}

// The state that the registry is left in says what was heard last.
void MoveSession::leave_held() noexcept {
  frozen_ = false;
  for (const auto& process : processes_) {
    try {
      process->leave_held();
    } catch (const Error&) {
      // It was killed.
    }
  }
  registry_->leave();
  processes_.clear();
}

// The first last: none of them sees another one's end.
void MoveSession::end_here(int status) noexcept {
  frozen_ = false;
  for (auto process = processes_.rbegin(); process != processes_.rend(); ++process) {
    if ((*process)->supervisor()) (*process)->supervisor()->exit_with(status);
    (*process)->end(status);
  }
}

void MoveSession::roll_back() noexcept {
  try {
    // If this process dies over it the rest goes on too.
    if (common_end_) common_end_->set_lease({});
  } catch (const Error&) {
    // Then it waits longer.
  }
  for (auto process = processes_.rbegin(); process != processes_.rend(); ++process) {
    const bool first = std::next(process) == processes_.rend();
    if (!(*process)->roll_back() && first) frozen_ = false;
  }
  processes_.clear();
}

// Until nobody there needs what is here. False: it has ended, and here too.
bool MoveSession::stand_in(const std::function<bool()>& may_read_input) {
  std::vector<DepartingProcess*> processes;
  for (const auto& process : processes_) processes.push_back(process.get());
  StandIn::Outcome outcome =
      StandIn({link(), *pump_, signals_, processes, *pages_, settings_.lease, may_read_input,
               [this] {
                 const migrate::PageServer::Progress progress = pages_->progress();
                 if (std::exchange(info_.pages_came, progress.pages) != progress.pages) {
                   tell_registry();
                 }
                 registry_->tell_connection(!link().is_connected());
               }})
          .run();
  report_.pages_sent += pages_->progress().pages;
  pages_.reset();
  reach(Step::kAllThere);
  messages_ = std::move(outcome.messages);
  if (outcome.ended && request_.detach) {
    if (!outcome.finished) leave_rest_there();
    end_here(0);
  }
  return !outcome.ended;
}

// The first has ended there; the others, and what they have begun, have no home any more. Where
// none is left the node says so by itself, and hears of nothing.
void MoveSession::leave_rest_there() {
  auto await_finish = [this] {
    while (link().receive_while_heard()->which() != Message::FINISHED) {
    }
  };
  try {
    link().send([](Message::Builder message) { message.setDismiss(); });
    link().flush();
    await_finish();
  } catch (const Error& error) {
    try {
      await_finish();
    } catch (const Error&) {
      report_.warnings.push_back("what it has begun there may have ended: " + error.text());
    }
  }
}

// The link's errors name it already.
std::string MoveSession::of_node(const std::string& text) const {
  return text.starts_with(info_.node + ": ") ? text : fmt::format("{}: {}", info_.node, text);
}

// What it has done there is lost; it is here as it was when it left. Says so.
std::string MoveSession::lose_held(const Error& error) {
  std::string text = await_end_there(error);
  pages_.reset();
  // Whoever takes it up asks there once more, and does not need an answer.
  info_.hold->lease_over = !is_known_not_to_run();
  tell_registry();
  if (common_end_ && common_end_->decided()) {
    end_here(kEndedBySession);
    return text + "; some of its processes had become deputies, and all have ended here";
  }
  const bool several = processes_.size() > 1;
  const bool none_is_left =
      std::all_of(processes_.begin(), processes_.end(), [](const auto& process) {
        return !process->is_parked() || tracee::was_killed(process->pid());
      });
  if (none_is_left || (!several && error.code() == Code::kGone)) return text;
  const std::chrono::duration<double> lost = time_lost(*info_.hold);
  if (several) {
    text += fmt::format(
        "; their memory had not all come there: they are held here as they were {1:.3g} s ago: "
        "`telefork resume {0}` takes them up, `kill -9` ends each",
        request_.pid, lost.count());
  } else {
    text += fmt::format(
        "; its memory had not all come there: it is held here as it was {1:.3g} s ago: `telefork "
        "resume {0}` takes it up, `kill -9 {0}` ends it",
        request_.pid, lost.count());
  }
  leave_held();
  return text;
}

void MoveSession::stay(std::function<bool()> may_read_input) {
  if (request_.detach) return;
  if (pages_) {
    try {
      stand_in(may_read_input);
      hollow_out();
    } catch (const Error& error) {
      const std::string text = lose_held(error);
      // Whoever has killed it here is told nothing, as of a deputy.
      if (going_.size() > 1 || !tracee::was_killed(request_.pid)) {
        deputy::tell_on(complaints_, of_node(text));
      }
      return;
    }
  }
  HomeOptions options;
  options.messages = std::move(messages_);
  options.call_fd = call_->fd();
  options.on_call = [this] { return bring_home(); };
  options.on_turn = [this] {
    let_go_of_closed_streams();
    tell_keeper_of_lost();
  };
  for (std::size_t i = 1; i < processes_.size(); ++i) {
    std::optional<deputy::Supervisor>& supervisor = processes_[i]->supervisor();
    if (supervisor) options.others.push_back({processes_[i]->own_pid(), &*supervisor});
  }
  stay_home(*first_supervisor(), may_read_input, std::move(options));
  finish_at_home(may_read_input);
}

}  // namespace telefork::session
