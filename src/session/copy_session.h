// One `telefork fork`: a copy of a running process that was never asked goes elsewhere, and the
// process itself runs on here.
//
//     CopySession session(settings, request);
//     DepartureReport report = session.run();  // it runs there; its deputy is a child of ours
//     session.stay(...);                       // until nothing of it is left there
//
//   the process    frozen: records | runs on ...
//   its snapshot             made  | pages are read ... | killed; reaped by the process
//   the deputy                                               begun | ready, go, started
//
// All but its private memory is read from the process itself, in one freeze; that is read from a
// snapshot (tracee/snapshot.h) while the process runs on. What only one can have is refused
// (Purpose::kCopy). Nothing of the process depends on this one: if it dies the process runs on, the
// snapshot ends at once, and who was told of it (DepartureSettings::on_snapshots) has it reaped.
//
// A process is copied with all that has come of it, in one freeze for all, and with a snapshot in
// each. Pages go behind the records of their process, so what those behind the first have is kept
// here until the pages of those before were sent. The first alone has a deputy.
//
// Where memory follows the copy (Mode::lazy) it is served from the snapshots, which stay so long.
// Where it goes ahead (Mode::live) and little is left when the process is frozen, that is sent from
// the process itself: nothing of it is copied on write.
//
// Owned as a Departure is.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "image/record_buffer.h"
#include "image/writer.h"
#include "session/copied_process.h"
#include "session/departure.h"
#include "session/own_deputy.h"
#include "tracee/frozen_tree.h"

namespace telefork::session {

class CopySession : public Departure {
 public:
  CopySession(DepartureSettings settings, DepartureRequest request);

  DepartureReport run() override;
  void stay(std::function<bool()> may_read_input) override;

 private:
  capture::SurveyOptions survey_options() const;
  void send_image();
  void describe(capture::TreeSurvey& tree, tracee::FrozenTree& frozen, capture::LivePlan* live,
                image::Writer& writer);
  bool needs_snapshots() const { return !rounds_ || !report_.live->converged; }
  void make_snapshots(image::Writer& writer);
  void send_pages(image::Writer& writer);
  void drop_snapshot(CopiedProcess& process);
  void look_after_pages();
  void end_pages();
  void begin_deputy();
  [[noreturn]] void on_failure(const Error& error);

  std::vector<std::unique_ptr<CopiedProcess>> processes_;  // parents before their children
  std::vector<image::RecordBuffer> kept_;                  // of those behind the first
  std::vector<capture::LazyPlan> plans_;                   // of each
  std::unique_ptr<migrate::PageServer> pages_;             // of those that have a snapshot so long
  OwnDeputy::Settings deputy_settings_;
  std::optional<OwnDeputy> deputy_;
  std::optional<deputy::Supervisor> supervisor_;
};

}  // namespace telefork::session
