// A process that runs elsewhere before its memory has come there: here it is whole still, read by a
// PageServer, and stands in for its deputy until nobody there needs it.
//
//   the pid at home, parked  <-- StandIn -->  link
//   stdin, stdout, stderr    <-- StdioPump -->
//
//     StandIn stand_in(parts);
//     Outcome outcome = stand_in.run();   // now it may become the deputy, and the Home begins
//
// It takes the signals that are sent to the process, and stops and goes on as the guest does. Of
// the guest's end it keeps the message: the deputy is to tell it. Throws what ends the session; the
// process is parked then as it was. Owned by the session process.
#pragma once

#include <functional>
#include <vector>

#include "migrate/page_server.h"
#include "protocol/link.h"
#include "proxy/stdio_pump.h"
#include "session/departing_process.h"
#include "session/home_lease.h"
#include "session/lease.h"
#include "session/sent_signal.h"
#include "session/signal_fd.h"
#include "tracee/parked_process.h"

namespace telefork::session {

class StandIn {
 public:
  struct Parts {
    protocol::Link& link;
    proxy::StdioPump& pump;
    SignalFd& signals;  // SIGCHLD
    DepartingProcess& process;
    const migrate::PageServer& pages;
    Lease lease;
    std::function<bool()> may_read_input;  // as HomeOptions
    std::function<void()> on_turn;         // a few times a second at most
  };
  explicit StandIn(Parts parts) : parts_(std::move(parts)), lease_(parts_.link, parts_.lease) {}

  struct Outcome {
    // What was said of the guest and is the Home's to act on.
    std::vector<protocol::ReceivedMessage> messages;
    bool ended = false;  // that was its end
  };
  Outcome run();

 private:
  bool is_over() const;
  void poll_once();
  void on_event(const tracee::ParkedProcess::Event& event);
  void on_message(protocol::ReceivedMessage message);
  void on_status(protocol::schema::Status::Reader status);
  void send_signal(const siginfo_t& info);
  void stop();
  void go_on();
  bool may_read_input();

  tracee::ParkedProcess& parked() { return parts_.process.parked(); }

  Parts parts_;
  HomeLease lease_;
  Outcome outcome_;
  bool all_there_ = false;
  bool finished_ = false;      // the node says no more
  bool stopped_ = false;       // the guest, or about to be
  bool stands_still_ = false;  // the process here, by a signal
  GroupSignals group_signals_;
};

}  // namespace telefork::session
