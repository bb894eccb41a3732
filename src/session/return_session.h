// Home's side of `telefork home`: a process that was moved away comes back to its pid, with all
// that has come of it. The node's side, and how the two talk, is in homeward.h.
//
//     ReturnSession returning(parts, request);
//     ReturnSession::Outcome outcome = returning.run();
//
//   call -> look at the offer -> come -> image, into a blank process that takes the deputy's place
//        -> whole -> ready | go -> it runs here
//
// Of several each takes the place of its own deputy, which becomes a blank process, or is made by
// its parent where it has none; each step is of all of them. Deputies of those that have ended
// there end before.
//
// Until it is whole here whatever is in the way leaves it there, and the deputy is put back where
// it was. From then on it is never given back: it runs here when the node has said go, which it
// does when the process has ended there; or when it is known that it has, by a fence (fence.h) or
// because its lease is over. Two never run.
//
// Owned by the thread that watches the deputy; in Home's place meanwhile (home.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "deputy/supervisor.h"
#include "protocol/link.h"
#include "proxy/stdio_pump.h"
#include "restore/files.h"
#include "restore/tree_restorer.h"
#include "session/fence.h"
#include "session/home_lease.h"
#include "session/programs.h"
#include "session/registry.h"
#include "session/returning_deputies.h"
#include "session/signal_fd.h"
#include "session/steps.h"

namespace telefork::session {

struct ReturnReport {
  struct Share {
    std::string_view step;
    double ms;
  };

  std::size_t processes = 1;
  std::uint64_t bytes_sent = 0;
  std::uint64_t pages_sent = 0;
  double freeze_ms = 0;
  double total_ms = 0;
  std::vector<Share> shares;
  std::vector<std::string> warnings;
};

class ReturnSession {
 public:
  // Of the session that it was moved by. All outlive it.
  struct Parts {
    const std::vector<ReturningDeputies::Deputy>& deputies;
    protocol::Link& link;
    proxy::StdioPump& pump;
    SignalFd& signals;
    RegistryEntry& registry;
    Fence* fence;
    const Lease& lease;
    const Programs& programs;
    const UniqueFd (&streams)[3];  // the program's own
    restore::SessionTerminals& terminals;
  };
  struct Request {
    int wish_fd = -1;  // readable: `is_unwanted` is asked
    std::function<bool()> is_unwanted;
    Steps steps;
  };
  enum class Where {
    kHome,   // it runs here; the deputy is no more
    kThere,  // it runs there as before
    kGone,   // the pid here was killed; the guest is to end
    kLost,   // the link is; nobody runs here
  };
  struct Outcome {
    Where where = Where::kThere;
    std::optional<Error> error;  // why it is not home
    bool stood_still = false;    // before that
    bool ended_there = false;    // of kGone: the node has seen to that
    ReturnReport report;
    // What its stdin has to give before the descriptor that the program had; the other end of the
    // pipe that it has for that.
    std::vector<std::byte> unread;
    UniqueFd input;
    // What happened meanwhile, for whoever goes on with the session.
    std::vector<deputy::Event> events;
    std::vector<std::pair<pid_t, deputy::Event>> events_of_others;
    std::vector<protocol::ReceivedMessage> messages;
  };

  ReturnSession(const Parts& parts, Request request);

  Outcome run();

 private:
  using Clock = std::chrono::steady_clock;
  using Which = protocol::schema::Message::Which;

  void call();
  void check_offer(protocol::schema::Offer::Reader offer) const;
  void check_id(const char* what, pid_t id) const;
  void take_image();
  restore::RestoreSettings settings();
  void get_deputies_ready();
  void make_streams();
  void finish_output();
  void hand_over();
  void release();
  void give_signals();
  void on_failure(const Error& error);
  void stay(const Error& error);
  Error killed(pid_t pid) const;
  bool is_lost(const Error& error) const;
  void await_fence(const Error& reason);
  protocol::ReceivedMessage await(std::initializer_list<Which> expected);
  void poll_once();
  void await_deputies();
  bool on_message(const protocol::ReceivedMessage& message);
  void look_at_deputies();
  void throw_if_unwanted() const;
  void say(std::string_view state);
  void reach(Step step);

  Parts parts_;
  Request request_;
  HomeLease lease_;
  ReturningDeputies deputies_;
  const pid_t pid_;      // of the first
  const pid_t own_pid_;  // as it sees itself
  restore::OpenFiles files_{true};
  std::unique_ptr<restore::TreeRestorer> restorer_;
  Outcome outcome_;
  std::string state_before_;
  Clock::time_point last_step_;
  Clock::time_point frozen_since_;
  bool node_knows_ = true;  // that it does not come: it says so itself, or was told
  bool whole_ = false;
  bool released_ = false;  // all but the first, which was killed
  bool leaving_ = false;   // it stays there, whatever else happens
  bool gone_ = false;
};

}  // namespace telefork::session
