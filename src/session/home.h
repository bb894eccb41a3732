// The home's side of a guest that runs elsewhere: its deputy, its streams, its link, in one poll
// loop.
//
//   deputy (the pid at home)  <-- Supervisor -->  Home  <== link ==>  keeper
//   stdin, stdout, stderr     <-- StdioPump --->
//
// When the link is lost while the guest may run, the pid at home does not end before the guest is
// known not to: the node has confirmed it (fence.h), or its lease is over (lease.h).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "deputy/supervisor.h"
#include "protocol/link.h"
#include "proxy/stdio_pump.h"
#include "session/deputy_ends.h"
#include "session/fence.h"
#include "session/handover.h"
#include "session/home_lease.h"
#include "session/lease.h"
#include "session/owed_signals.h"
#include "session/registry.h"
#include "session/return_session.h"
#include "session/sent_signal.h"
#include "session/signal_fd.h"
#include "session/steps.h"

namespace telefork::session {

struct HomeOptions {
  using End = DeputyEnd;
  // Told how the guest ended just before the pid at home does; gives how that one is to end.
  std::function<End(End)> on_end;
  // However the pid at home is about to end: from here on nobody needs what it has left.
  std::function<void()> before_end;
  // And that it is on its way to that end.
  std::function<void()> on_ended;
  // What goes to stderr when the session fails; the Error's text without it.
  std::function<std::string(const Error&)> on_failure;
  // Whether home's stdin may be read now; asked often. Without it: always.
  std::function<bool()> may_read_input;
  // Readable: somebody calls the guest home, and `on_call` is to bring it.
  int call_fd = -1;
  std::function<ReturnSession::Outcome()> on_call;
  // What the node has said before; they come first.
  std::vector<protocol::ReceivedMessage> messages;
  // After every turn.
  std::function<void()> on_turn;
  // The deputies of those that went along, which outlive the Home; `guest_pid`: as it sees itself.
  struct Other {
    pid_t guest_pid;
    deputy::Supervisor* supervisor;
  };
  std::vector<Other> others;
  // Bit N-1: signal N is not for the guest.
  std::uint64_t ignored_signals = 0;
  Lease lease;
  Fence* fence = nullptr;  // of the session; outlives the Home
  Steps steps;
};

class Home {
 public:
  // `state` is kGivenUp or kAway. All must outlive it.
  Home(protocol::Link& link, proxy::StdioPump& pump, deputy::Supervisor& supervisor,
       SignalFd& signals, RegistryEntry& registry, SourceState state, HomeOptions options = {})
      : link_(link),
        pump_(pump),
        supervisor_(supervisor),
        signals_(signals),
        registry_(registry),
        state_(state),
        options_(std::move(options)),
        lease_(link, options_.lease) {
    for (const HomeOptions::Other& other : options_.others) {
      others_.push_back({other.guest_pid, other.supervisor});
    }
  }

  // Until the guest and its last descendant have ended, or nothing more is to be learnt. The pid at
  // home has ended by then, with the guest's status or with 125; or it runs here, called home.
  void run();

 private:
  void poll_once();
  void on_failure(const Error& error);
  bool await_fence();
  void await_deputies();
  void look_at_deputies();
  void end_others();
  void add_deputies(std::vector<pollfd>& entries);
  bool are_others_gone() const;
  void on_message(const protocol::ReceivedMessage& message);
  void on_status(protocol::schema::Status::Reader status);
  // One of the pids here, and whom it stands for.
  struct Seat {
    pid_t guest_pid = 0;                       // as it sees itself; 0: the first
    deputy::Supervisor* supervisor = nullptr;  // of others than the first
    bool gone = false;
    GroupSignals group_signals{};
  };
  void on_gone(Seat& seat);
  // Of those that are still there.
  void for_each_seat(const std::function<void(Seat&, deputy::Supervisor&)>& look);
  void on_status_of_other(Seat& seat, protocol::schema::Status::Reader status);
  void on_event(Seat& seat, const deputy::Event& event);
  void on_deputy_event(const deputy::Event& event) { on_event(first_, event); }
  void on_home_signal(Seat& seat, const deputy::Event& event);
  void owe_signal(const Seat& seat, int number);
  // One that was sent to a whole group goes there as one: who gets it last would else see what the
  // others do when they have it.
  void ask_others_of_group(const Seat& seat, pid_t group);
  bool are_signals_complete();
  bool is_hushed() const { return !finished_ && lease_.is_hushed(); }
  void deliver_end();
  bool may_be_called() const {
    return !is_hushed() && !end_ && !delivered_ && !first_.gone && ends_.idle();
  }
  void bring_home();
  void note_loss();
  bool may_read_input();
  net::Deadline next_turn();
  void step(SourceEvent event);

  protocol::Link& link_;
  proxy::StdioPump& pump_;
  deputy::Supervisor& supervisor_;
  SignalFd& signals_;
  RegistryEntry& registry_;
  SourceState state_;
  HomeOptions options_;
  HomeLease lease_;
  using End = HomeOptions::End;
  std::optional<End> end_;  // told by the keeper, not yet delivered
  bool delivered_ = false;
  bool loss_noted_ = false;
  Seat first_;
  std::vector<Seat> others_;
  DeputyEnds ends_;  // of others, told by the keeper
  bool finished_ = false;
  bool is_home_ = false;
  OwedSignals owed_signals_;
};

}  // namespace telefork::session
