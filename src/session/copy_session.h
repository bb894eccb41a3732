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
// snapshot ends at once, and who was told of it (DepartureSettings::on_snapshot) has it reaped.
//
// Owned as a Departure is.
#pragma once

#include <functional>
#include <optional>

#include "session/departure.h"
#include "session/own_deputy.h"

namespace telefork::session {

class CopySession : public Departure {
 public:
  CopySession(DepartureSettings settings, DepartureRequest request);

  DepartureReport run() override;
  void stay(std::function<bool()> may_read_input) override;

 private:
  capture::SurveyOptions survey_options() const;
  void send_image();
  void reap(const tracee::SnapshotId& snapshot);
  void begin_deputy();
  [[noreturn]] void on_failure(const Error& error);

  OwnDeputy::Settings deputy_settings_;
  std::optional<OwnDeputy> deputy_;
  std::optional<deputy::Supervisor> supervisor_;
};

}  // namespace telefork::session
