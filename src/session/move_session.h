// One `telefork move`: a running process that was never asked goes elsewhere, and its deputy takes
// its place here.
//
//     MoveSession session(settings, request);
//     DepartureReport report = session.run();  // it runs there; the pid here is the deputy's
//     session.stay();                          // until nothing of it is left there
//
//   look -> freeze -> capture -> sent -> ready | given up -> go -> started -> hollow | stay
//                                                                       \-> let go -> end
//
// A process goes with all that has come of it, as `telefork save` takes it. Ready, given up and go
// are said of all of them at once. When they run there each one here becomes a deputy; the instant
// of no return is one for all too (common_end.h): before it all go on here if this process dies,
// after it none does.
//
// Until it is given up the process goes on here whatever happens. From then on it waits, parked
// (tracee/parked_process.h), until the node says that it runs there, and then becomes the deputy;
// or until it is known that it does not (fence.h), and then it goes on here after all. Two never
// run. If this process dies in between, the parked ones wait out the lease, or are taken up before
// (resume.h).
//
// Of one that is detached nothing stays: when the node has said that it runs there, it is asked to
// hold it without a home, and the process here ends, with 0, when it has confirmed that. While that
// is asked the node may hold it whatever is heard of it, so the process does not go on here any
// more unless a fence confirms that nothing of it runs: else it stays parked, when this process is
// gone too, until somebody takes it up (resume.h).
//
// Where its memory follows it (Mode::lazy) it stays parked behind started too, and stands in for
// the deputy (stand_in.h): only when nobody there needs what is here does it become that, or end.
// If the node or the link is lost before, it is held here, as it was when it left. Of several all
// stay, whole, until no memory of any of them is needed there: the instant of no return is theirs.
//
//   ... started -> standing in -> hollow | let go -> end
//                      \-> held
//
// Owned as a Departure is.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "session/common_end.h"
#include "session/departing_process.h"
#include "session/departure.h"
#include "session/home_call.h"
#include "session/stand_in.h"
#include "tracee/frozen_tree.h"

namespace telefork::session {

class MoveSession : public Departure {
 public:
  MoveSession(DepartureSettings settings, DepartureRequest request);

  DepartureReport run() override;
  // The pid here has ended when it returns; or it has been called home, and has read what it had
  // not read there of its stdin.
  void stay(std::function<bool()> may_read_input) override;

 private:
  capture::SurveyOptions survey_options() const;
  void depart();
  void park(tracee::FrozenTree frozen, const capture::TreeSurvey& tree);
  void give_up();
  void tell_keeper(tracee::FrozenTree& frozen);
  void tell_keeper_of_lost();
  void report_changes();
  void hollow_out();
  void on_killed(DepartingProcess& process);
  void let_go();
  bool stand_in(const std::function<bool()>& may_read_input);
  void leave_rest_there();
  std::string of_node(const std::string& text) const;
  std::string lose_held(const Error& error);
  [[noreturn]] void on_failure(const Error& error);
  void roll_back() noexcept;
  void end_here(int status) noexcept;
  void leave_held() noexcept;
  void tell_hold(bool without_end);
  void set_lease(std::chrono::nanoseconds lease);
  // move_return.cc
  std::vector<ReturningDeputies::Deputy> deputies();
  ReturnSession::Outcome bring_home();
  void answer_others();
  void let_go_of_closed_streams();
  void finish_at_home(const std::function<bool()>& may_read_input);

  std::optional<deputy::Supervisor>& first_supervisor() { return processes_.front()->supervisor(); }

  std::vector<std::unique_ptr<DepartingProcess>> processes_;  // parents before their children
  std::optional<CommonEnd> common_end_;                       // of several
  std::optional<telefork_snapshot> caller_;  // the thread that has asked for it, if one has
  // Of the deputies: the last to close a master would have the kernel hang up on them, and these
  // would tell it to those that have gone. They come back to it.
  restore::SessionTerminals terminals_;
  // Its memory follows, from here. It is whole here until all has come, and not to go on by itself.
  std::unique_ptr<migrate::PageServer> pages_;
  std::chrono::nanoseconds frozen_at_{0};  // by time_since_boot()
  Clock::time_point freeze_start_;
  std::vector<protocol::ReceivedMessage> messages_;  // that came meanwhile, for the Home
  bool may_stay_there_ = false;                      // detached: whatever becomes of the link
  std::optional<HomeCall> call_;
  std::optional<ReturnSession::Outcome> at_home_;  // since it was called home
};

}  // namespace telefork::session
