// A process that runs elsewhere before its memory has come there, or several: here they are whole
// still, read by a PageServer, and stand in for their deputies until nobody there needs them.
//
//   the pids at home, parked <-- StandIn -->  link
//   stdin, stdout, stderr    <-- StdioPump -->
//
//     StandIn stand_in(parts);
//     Outcome outcome = stand_in.run();   // now they may become deputies, and the Home begins
//
// It takes the signals that are sent to each process, and stops and goes on as that one does there.
// Of an end there it keeps the message: the deputy is to tell it. Throws what ends the session, the
// death of one of them here among that, since its memory is lost with it; all are parked then as
// they were. Owned by the session process.
#pragma once

#include <functional>
#include <vector>

#include "migrate/page_server.h"
#include "protocol/link.h"
#include "proxy/stdio_pump.h"
#include "session/departing_process.h"
#include "session/home_lease.h"
#include "session/lease.h"
#include "session/owed_signals.h"
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
    // The one that was asked for first.
    std::vector<DepartingProcess*> processes;
    const migrate::PageServer& pages;
    Lease lease;
    std::function<bool()> may_read_input;  // as HomeOptions
    std::function<void()> on_turn;         // a few times a second at most
  };
  explicit StandIn(Parts parts);

  struct Outcome {
    // What was said of them and is the Home's to act on.
    std::vector<protocol::ReceivedMessage> messages;
    bool ended = false;     // the first one has
    bool finished = false;  // the node says no more
  };
  Outcome run();

 private:
  // One of the pids here, and whom it stands for.
  struct Seat {
    DepartingProcess* process;
    pid_t guest_pid;            // as it sees itself; 0: the first
    bool stopped = false;       // the one there, or about to be
    bool stands_still = false;  // the one here, by a signal
    GroupSignals group_signals{};

    tracee::ParkedProcess& parked() const { return process->parked(); }
  };

  bool is_over() const;
  void poll_once();
  void look_at_processes();
  void on_event(Seat& seat, const tracee::ParkedProcess::Event& event);
  void on_signal(Seat& seat, const siginfo_t& info);
  bool owe(Seat& seat, const siginfo_t& info, pid_t group);
  void take_from_group(const Seat& seat, pid_t group);
  void send_owed();
  void on_message(protocol::ReceivedMessage message);
  bool on_status(protocol::schema::Status::Reader status);
  void stop(Seat& seat);
  void go_on(Seat& seat);
  bool may_read_input();

  Parts parts_;
  std::vector<Seat> seats_;
  HomeLease lease_;
  Outcome outcome_;
  bool all_there_ = false;
  OwedSignals owed_signals_;
};

}  // namespace telefork::session
