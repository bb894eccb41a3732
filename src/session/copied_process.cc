#include "session/copied_process.h"

#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::session {

CopiedProcess::CopiedProcess(tracee::FrozenProcess& frozen)
    : pid_(frozen.pid()), frozen_(frozen), stub_(frozen.leader(), frozen.pid(), {}) {}

void CopiedProcess::describe(capture::TreeSurvey& tree, std::size_t member,
                             const capture::CaptureSettings& settings, image::RecordSink& sink,
                             const std::function<void()>& on_part) {
  const capture::CommonPart common(tree, member);
  settings_ = capture::settings_of(tree, member, settings);
  capture_.emplace(tree.members[member], frozen_, stub_, settings_);
  capture_->write_metadata(sink, on_part);
}

void CopiedProcess::make_snapshot(image::RecordSink& sink, bool follows) {
  using Memory = tracee::Snapshot::Memory;
  capture_->write_pages_beside_snapshot(sink);
  snapshot_.emplace(stub_, follows ? Memory::kDroppable : Memory::kCopied);
}

void CopiedProcess::write_all_pages(image::RecordSink& sink) {
  capture_->write_pages(sink);
  capture_.reset();
}

void CopiedProcess::leave() {
  stub_.remove();
  left_ = true;
}

void CopiedProcess::write_pages(image::RecordSink& sink) {
  capture_->write_pages_of_snapshot(snapshot_->pid(), sink);
  capture_.reset();
}

void CopiedProcess::give_up() noexcept {
  try {
    if (snapshot_) snapshot_->end();
    if (left_) return;
    if (snapshot_) tracee::reap_snapshot(stub_, snapshot_->id());
    leave();
  } catch (const Error&) {
    // It was killed, and what is left of it goes with it.
  }
}

std::string CopiedProcess::reap() noexcept {
  if (!snapshot_) return "";
  try {
    tracee::reap_snapshot(pid_, snapshot_->id());
    return "";
  } catch (const Error& error) {
    return fmt::format(
        "process {}, which it was copied by, has ended and stays in the list of processes until "
        "process {} ends: {}",
        snapshot_->pid(), pid_, error.text());
  }
}

}  // namespace telefork::session
