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
// Until it is given up the process goes on here whatever happens. From then on it waits, parked
// (tracee/parked_process.h), until the node says that it runs there, and then becomes the deputy;
// or until it is known that it does not (fence.h), and then it goes on here after all. Two never
// run. If this process dies in between, the parked one waits out the lease.
//
// Of one that is detached nothing stays: when the node has said that it runs there, it is asked to
// hold it without a home, and the process here ends, with 0, when it has confirmed that. While that
// is asked the node may hold it whatever is heard of it, so the process does not go on here any
// more unless a fence confirms that nothing of it runs: else it stays parked, when this process is
// gone too, until somebody takes it up (resume.h).
//
// Owned as a Departure is.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "session/departure.h"
#include "session/home_call.h"
#include "tracee/parked_process.h"

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
  void give_up();
  void open_session_socket();
  void close_session_socket();
  void close_on_death(const std::vector<int>& fds);
  void take_stale_signals();
  void hollow_out();
  void let_go();
  [[noreturn]] void on_failure(const Error& error);
  void roll_back() noexcept;
  void end_here() noexcept;
  void leave_held() noexcept;
  void tell_hold(bool without_end);
  // move_return.cc
  ReturnSession::Outcome bring_home();
  void let_go_of_closed_streams();
  void finish_at_home(const std::function<bool()>& may_read_input);

  std::unique_ptr<tracee::ParkedProcess> parked_;
  std::vector<siginfo_t> captured_signals_;  // pending ones that have gone with it
  std::vector<siginfo_t> taken_signals_;     // of them, to be given back if it goes on here
  UniqueFd session_socket_;                  // our end
  int their_socket_ = -1;                    // its number in the process
  std::optional<telefork_snapshot> caller_;  // the thread that has asked for it, if one has
  bool may_stay_there_ = false;              // detached: whatever becomes of the link
  std::optional<deputy::Supervisor> supervisor_;
  std::optional<HomeCall> call_;
  std::optional<ReturnSession::Outcome> at_home_;  // since it was called home
};

}  // namespace telefork::session
