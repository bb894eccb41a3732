// The home's side of a guest that runs elsewhere: its deputy, its streams, its link, in one poll
// loop.
//
//   deputy (the pid at home)  <-- Supervisor -->  Home  <== link ==>  keeper
//   stdin, stdout, stderr     <-- StdioPump --->
#pragma once

#include <optional>

#include "deputy/supervisor.h"
#include "protocol/link.h"
#include "proxy/stdio_pump.h"
#include "session/handover.h"
#include "session/registry.h"
#include "session/signal_fd.h"

namespace telefork::session {

class Home {
 public:
  // `state` is kGivenUp or kAway. All must outlive it.
  Home(protocol::Link& link, proxy::StdioPump& pump, deputy::Supervisor& supervisor,
       SignalFd& signals, RegistryEntry& registry, SourceState state)
      : link_(link),
        pump_(pump),
        supervisor_(supervisor),
        signals_(signals),
        registry_(registry),
        state_(state) {}

  // Until the guest and its last descendant have ended, or nothing more is to be learnt. The pid at
  // home has ended by then, with the guest's status or with 125.
  void run();

 private:
  void poll_once();
  void await_deputy();
  void on_message(const protocol::ReceivedMessage& message);
  void on_status(protocol::schema::Status::Reader status);
  void on_deputy_event(const deputy::Event& event);
  void send_signal(int number, bool from_terminal, const signalfd_siginfo* info);
  void deliver_end();
  void watch_silence();
  void step(SourceEvent event);

  protocol::Link& link_;
  proxy::StdioPump& pump_;
  deputy::Supervisor& supervisor_;
  SignalFd& signals_;
  RegistryEntry& registry_;
  SourceState state_;
  struct End {
    bool killed;
    int value;
  };
  std::optional<End> end_;  // told by the keeper, not yet delivered
  bool delivered_ = false;
  bool deputy_gone_ = false;
  bool finished_ = false;
  protocol::Link::Clock::time_point next_heartbeat_ = protocol::Link::Clock::now();
};

}  // namespace telefork::session
