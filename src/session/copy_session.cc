#include "session/copy_session.h"

#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "capture/capture.h"
#include "image/writer.h"
#include "kernel/procfs_task.h"
#include "session/description.h"
#include "session/image_header.h"
#include "tracee/freezer.h"
#include "tracee/snapshot.h"
#include "tracee/stub.h"

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
  return options;
}

// Up to the whole image there.
void CopySession::send_image() {
  announce();
  reach(Step::kAnnounced);
  const Clock::time_point freeze_start = Clock::now();
  tracee::FrozenProcess frozen = tracee::FrozenProcess::freeze(request_.pid, 0);
  frozen.suspend_seccomp();
  frozen_ = true;
  reach(Step::kFrozen);
  const capture::TreeSurvey tree = look_again(survey_options());
  const capture::Survey& survey = tree.first();
  tell_streams(survey);
  take_streams(survey);
  deputy_settings_.arguments = list_arguments(request_.pid);
  deputy_settings_.name = survey.status.name;
  tracee::Stub stub(frozen.leader(), request_.pid, {});
  capture::CaptureSettings capture_settings;
  capture_settings.pagemap = settings_.pagemap;
  capture::Capture capture(survey, frozen, stub, capture_settings);
  image::Writer writer(link().record_sink(), link().bulk_sink());
  write_header(Header::Purpose::MOVE, here_.reader(), writer);
  capture.write_metadata(writer, [this] { link().flush_some(); });
  capture.write_pages_beside_snapshot(writer);
  reach(Step::kDescribed);
  tracee::Snapshot snapshot(stub);
  if (settings_.on_snapshot) settings_.on_snapshot(snapshot.id());
  try {
    stub.remove();
    frozen.thaw();
    report_.freeze_ms = ms_since(freeze_start);
    reach(Step::kForked);
    capture.write_pages_of_snapshot(snapshot.pid(), writer);
    writer.end();
    link().flush();
  } catch (const Error&) {
    snapshot.end();
    reap(snapshot.id());
    throw;
  }
  snapshot.end();
  reap(snapshot.id());
  report_.bytes_sent = writer.totals().bytes;
  report_.pages_sent = writer.totals().pages;
  reach(Step::kSent);
}

// A zombie harms nobody: the copy is not to fail by it.
void CopySession::reap(const tracee::SnapshotId& snapshot) {
  try {
    tracee::reap_snapshot(request_.pid, snapshot);
  } catch (const Error& error) {
    report_.warnings.push_back(
        fmt::format("process {}, which it was copied by, has ended and stays in the list of "
                    "processes until process {} ends: {}",
                    snapshot.pid, request_.pid, error.text()));
  }
}

void CopySession::begin_deputy() {
  deputy_settings_.program = settings_.programs.deputy;
  deputy_settings_.standard_error = complaints_.get();
  deputy_.emplace(deputy_settings_);
  supervisor_.emplace(
      deputy_->become(signals_, complaints_ ? complaints_.duplicate() : UniqueFd()));
  report_.home_pid = deputy_->pid();
  info_.pid = deputy_->pid();
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
  if (error.code() == Code::kGone) frozen_ = false;
  if (!opened_) throw error;
  link().set_interrupt(-1, {});
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
  stay_home(*supervisor_, std::move(may_read_input));
}

}  // namespace telefork::session
