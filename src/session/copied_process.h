// One process of a copy (copy_session.h), from the stop on until nothing of the copy is in it.
//
//     CopiedProcess process(frozen, settings);
//     process.describe(tree, i, sink, ...);  // all but what its snapshot has
//     process.make_snapshot();
//     process.leave();                       // it can go on
//     process.write_pages(sink);             // of the snapshot
//     ... or, of one whose memory has gone ahead but for little, no snapshot, and before leave():
//     process.write_all_pages(sink);
//     process.end_snapshot();
//     process.reap();
//     ... or process.give_up() before it goes on, and reap() after
//
// If this process dies while it is stopped it goes on, and has reaped its snapshot itself; from
// then on who knows the snapshot() has to have it reaped. Owned by the thread that froze it.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "capture/tree.h"
#include "image/record_sink.h"
#include "tracee/freezer.h"
#include "tracee/snapshot.h"
#include "tracee/stub.h"

namespace telefork::session {

class CopiedProcess {
 public:
  // `frozen` must outlive leave().
  explicit CopiedProcess(tracee::FrozenProcess& frozen);
  CopiedProcess(const CopiedProcess&) = delete;
  CopiedProcess& operator=(const CopiedProcess&) = delete;

  pid_t pid() const { return pid_; }
  // `tree` must outlive it. `on_part` as Capture has it. Without pages.
  void describe(capture::TreeSurvey& tree, std::size_t member,
                const capture::CaptureSettings& settings, image::RecordSink& sink,
                const std::function<void()>& on_part);
  // `sink`: of the pages that it has not. `follows`: memory is served from it.
  void make_snapshot(image::RecordSink& sink, bool follows);
  // Where it hears which of its pages nobody needs; empty: nowhere.
  UniqueFd take_control() { return snapshot_->take_control(); }
  const tracee::SnapshotId& snapshot() const { return snapshot_->id(); }
  void leave();
  void write_pages(image::RecordSink& sink);
  void write_all_pages(image::RecordSink& sink);
  // Nobody reads its snapshot any more.
  void end_snapshot() { snapshot_->end(); }
  // Whatever is in it: it is as it was, but for a snapshot that it could not reap by now.
  void give_up() noexcept;
  // It runs. Why its snapshot's number stays taken; empty: it does not.
  std::string reap() noexcept;

 private:
  pid_t pid_;
  tracee::FrozenProcess& frozen_;
  tracee::Stub stub_;
  bool left_ = false;
  capture::CaptureSettings settings_;
  std::optional<capture::Capture> capture_;
  std::optional<tracee::Snapshot> snapshot_;
};

}  // namespace telefork::session
