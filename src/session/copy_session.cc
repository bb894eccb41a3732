#include "session/copy_session.h"

#include <utility>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "session/description.h"
#include "session/image_header.h"

namespace telefork::session {

using image::schema::Header;

CopySession::CopySession(DepartureSettings settings, DepartureRequest request)
    : Departure(std::move(settings), std::move(request), "copying") {}

capture::SurveyOptions CopySession::survey_options() const {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kCopy;
  options.trace_bar = settings_.trace_bar;
  options.copy_shared = request_.copy_shared;
  options.leave_home = request_.leave_fds;
  options.asker = request_.asker;
  if (request_.keeper) options.own_namespaces = request_.keeper->namespaces;
  return options;
}

// Up to the whole image there.
void CopySession::send_image() {
  announce(true);
  reach(Step::kAnnounced);
  image::Writer writer(link().record_sink(), link().bulk_sink());
  show_progress_of(writer);
  if (memory_.is_live()) {
    write_header(Header::Purpose::MOVE, here_.reader(), writer);
    send_rounds(writer);
  }
  const Clock::time_point freeze_start = Clock::now();
  tracee::FrozenTree frozen = freeze();
  for (tracee::FrozenProcess& process : frozen.processes()) process.suspend_seccomp();
  frozen_ = true;
  reach(Step::kFrozen);
  capture::SurveyOptions as_frozen = survey_options();
  as_frozen.known_tree = &frozen.all();
  as_frozen.known_copied = &frozen.copied();
  std::vector<kernel::Vma> map;
  const std::unique_ptr<capture::LivePlan> live = end_rounds(frozen, map);
  if (live) as_frozen.map = &map;
  capture::TreeSurvey tree = look_again(as_frozen);
  try {
    describe(tree, frozen, live.get(), writer);
    reach(Step::kDescribed);
    const bool by_snapshots = needs_snapshots();
    if (by_snapshots) {
      make_snapshots(writer);
    } else {
      processes_.front()->write_all_pages(writer);
    }
    for (const auto& process : processes_) process->leave();
    frozen.let_go();
    report_.freeze_ms = ms_since(freeze_start);
    reach(Step::kForked);
    if (by_snapshots) send_pages(writer);
    writer.end();
    link().flush();
    rounds_.reset();
  } catch (const Error&) {
    pages_.reset();
    for (const auto& process : processes_) process->give_up();
    frozen.let_go();
    for (const auto& process : processes_) process->reap();
    processes_.clear();
    throw;
  }
  if (!pages_) processes_.clear();
  report_.processes = tree.members.size();
  report_.bytes_sent = writer.totals().bytes;
  report_.bytes_saved = link().bulk_bytes_saved();
  report_.pages_sent = writer.totals().pages;
  reach(Step::kSent);
}

void CopySession::describe(capture::TreeSurvey& tree, tracee::FrozenTree& frozen,
                           capture::LivePlan* live, image::Writer& writer) {
  for (tracee::FrozenProcess& process : frozen.processes()) {
    if (process.leader().in_group_stop()) tree.stopped.insert(process.pid());
  }
  tell_streams(tree.first());
  take_streams(tree.first());
  deputy_settings_.arguments = list_arguments(request_.pid);
  deputy_settings_.name = tree.first().status.name;
  if (!memory_.is_live()) write_header(Header::Purpose::MOVE, here_.reader(), writer);
  capture::write_tree(tree, writer);
  capture::CaptureSettings settings;
  settings.pagemap = settings_.pagemap;
  plans_ = memory_.plan_all(tree, frozen);
  settings.live = live;
  settings.few_pages = live != nullptr && !needs_snapshots();
  kept_.resize(tree.members.size() - 1);
  for (std::size_t i = 0; i < tree.members.size(); ++i) {
    auto process = std::make_unique<CopiedProcess>(frozen.of(tree.members[i].pid));
    CopiedProcess& it = *process;
    processes_.push_back(std::move(process));
    settings.lazy = &plans_[i];
    if (i == 0) {
      it.describe(tree, i, settings, writer, [this] { link().flush_some(); });
    } else {
      it.describe(tree, i, settings, kept_[i - 1], {});
    }
  }
}

void CopySession::make_snapshots(image::Writer& writer) {
  std::vector<SnapshotOf> snapshots;
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    const auto& process = processes_[i];
    const bool follows = !plans_[i].mappings.empty();
    if (i == 0) {
      process->make_snapshot(writer, follows);
    } else {
      process->make_snapshot(kept_[i - 1], follows);
    }
    snapshots.push_back({process->pid(), process->snapshot()});
  }
  if (settings_.on_snapshots) settings_.on_snapshots(snapshots);
}

void CopySession::send_pages(image::Writer& writer) {
  std::vector<pid_t> snapshots;
  std::vector<bool> follows;
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    if (i > 0) kept_[i - 1].write_to(writer);
    processes_[i]->write_pages(writer);
    snapshots.push_back(processes_[i]->snapshot().pid);
    follows.push_back(!plans_[i].mappings.empty());
    if (!follows[i]) drop_snapshot(*processes_[i]);
  }
  pages_ = memory_.serve_all(std::move(plans_), snapshots, true, settings_.pagemap);
  std::vector<std::unique_ptr<CopiedProcess>> served;
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    if (!follows[i]) continue;
    UniqueFd control = processes_[i]->take_control();
    if (control) pages_->let_drop(static_cast<std::uint32_t>(i), std::move(control));
    served.push_back(std::move(processes_[i]));
  }
  processes_ = std::move(served);
}

// A zombie harms nobody: the copy is not to fail by it.
void CopySession::drop_snapshot(CopiedProcess& process) {
  process.end_snapshot();
  std::string left = process.reap();
  if (!left.empty()) report_.warnings.push_back(std::move(left));
}

void CopySession::look_after_pages() {
  if (!pages_) return;
  pages_->check();
  const migrate::PageServer::Progress progress = pages_->progress();
  if (progress.complete || progress.closed) end_pages();
}

void CopySession::end_pages() {
  if (std::exchange(pages_, nullptr) && registry_) {
    SessionInfo info = registry_->info();
    info.follows = false;
    registry_->update(info);
  }
  for (const auto& process : std::exchange(processes_, {})) drop_snapshot(*process);
}

void CopySession::begin_deputy() {
  deputy_settings_.program = settings_.programs.deputy;
  deputy_settings_.standard_error = complaints_.get();
  deputy_.emplace(deputy_settings_);
  supervisor_.emplace(
      deputy_->become(signals_, complaints_ ? complaints_.duplicate() : UniqueFd()));
  report_.home_pid = deputy_->pid();
  info_.pid = deputy_->pid();
  info_.follows = pages_ != nullptr;
  registry_.emplace(settings_.registry, info_);
}

DepartureReport CopySession::run() {
  begin();
  try {
    look(survey_options());
    reach(Step::kChecked);
    send_image();
    await_ready();
    begin_deputy();
    send_go();
    await_started();
  } catch (const Error& error) {
    on_failure(error);
  }
  frozen_ = false;
  return report_;
}

// Who asked is told when the copy is known not to run: then it may be asked for again.
void CopySession::on_failure(const Error& error) {
  if (error.code() == Code::kGone && alone()) frozen_ = false;
  if (!opened_) throw error;
  if (rounds_ && rounds_->has_stopped()) frozen_ = true;
  rounds_.reset();
  link().set_interrupt(-1, {});
  end_pages();
  std::string text = error.text();
  if (state_ == SourceState::kSending) {
    link().fail(error);
  } else {
    text = await_end_there(error);
  }
  supervisor_.reset();
  deputy_.reset();
  throw Error(error.code(), text);
}

void CopySession::stay(std::function<bool()> may_read_input) {
  HomeOptions options;
  options.on_turn = [this] { look_after_pages(); };
  options.before_end = [this] { end_pages(); };
  stay_home(*supervisor_, std::move(may_read_input), std::move(options));
  end_pages();
}

}  // namespace telefork::session
