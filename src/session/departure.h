// A process that was never asked, on its way to a node: what a move (move_session.h) and a copy
// (copy_session.h) have in common.
//
//   look        while it runs: what cannot go is told before anything stops
//   announce    the node makes a process meanwhile
//   look_again  it is frozen; its records follow
//   await_ready the node has all of it
//
// Owned by the process that serves this one session, single-threaded, with SIGCHLD blocked.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "abi/agent.h"
#include "capture/tree.h"
#include "image/writer.h"
#include "kernel/probe.h"
#include "kernel/yama.h"
#include "protocol/machine.h"
#include "proxy/stdio_pump.h"
#include "session/fence.h"
#include "session/file_negotiation.h"
#include "session/handover.h"
#include "session/home.h"
#include "session/live_rounds.h"
#include "session/node_link.h"
#include "session/outgoing_memory.h"
#include "session/programs.h"
#include "session/registry.h"
#include "session/signal_fd.h"
#include "session/watch_loan.h"
#include "tracee/frozen_tree.h"
#include "tracee/snapshot.h"

namespace telefork::session {

struct DepartureRequest {
  pid_t pid = 0;
  net::NodeAddress node;
  bool copy_shared = false;
  bool cpu_force = false;
  bool libc_force = false;
  Mode mode = Mode::kAutomatic;
  bool detach = false;     // of a move: nothing of it stays here
  bool leave_fds = false;  // of a copy: descriptors of what cannot be copied stay here
  pid_t asker = 0;         // the command; 0: none
  int agent_fd = -1;  // of a process that has asked itself: its library's socket, no part of it
  std::optional<KeeperCall> keeper;  // who has brought it here, or whom it has come of
};

// That of a process which is copied.
struct SnapshotOf {
  pid_t process = 0;
  tracee::SnapshotId id;
};

struct DepartureSettings {
  Programs programs;
  NodeAccess access;
  std::string registry;  // see registry.h; empty: none
  Lease lease;
  Laziness laziness;
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  kernel::TraceBar trace_bar = kernel::TraceBar::kNone;
  // Readable: whoever asked for it may not want it any more, and `is_unwanted` is asked, until the
  // process is given up.
  int wish_fd = -1;
  std::function<bool()> is_unwanted;
  // As its memory goes: the bytes that have gone, and those resident in all that goes.
  std::function<void(std::uint64_t sent, std::uint64_t resident)> on_sent;
  // Of a process that has asked itself: called once it is known that it may go; gives the thread
  // that waits in a read() of its session socket, and is told there that it has gone.
  std::function<telefork_snapshot()> await_caller;
  // Of a copy: if this process dies from now on, each program has to reap its own.
  std::function<void(const std::vector<SnapshotOf>&)> on_snapshots;
  Steps steps;
  // Of whoever calls home what was moved: what its --stop-at says.
  std::function<Steps(const std::string&)> steps_by_name;
};

struct DepartureReport {
  // How long it took from the step before, or from the beginning, to this one.
  struct Share {
    std::string_view step;
    double ms;
  };

  pid_t pid = 0;                  // as the node sees it
  pid_t guest_pid = 0;            // as it sees itself
  pid_t home_pid = 0;             // of a copy: its deputy's
  std::string mode, mode_reason;  // as SessionInfo has them
  std::size_t processes = 1;
  std::uint64_t bytes_sent = 0;
  std::int64_t bytes_saved = 0;  // of those: they did not go over the link, by compression
  std::uint64_t pages_sent = 0;
  double freeze_ms = 0;                    // that nothing of it ran
  std::optional<LiveRounds::Report> live;  // what went before
  double total_ms = 0;
  std::vector<Share> shares;          // in their order
  std::vector<std::string> warnings;  // what is not as it was
};

class Departure {
 public:
  Departure(const Departure&) = delete;
  Departure& operator=(const Departure&) = delete;
  virtual ~Departure();

  // Throws what is in the way; then the process runs on here, or has ended.
  virtual DepartureReport run() = 0;
  // Until what went has ended there with all that it has begun. `may_read_input` as in HomeOptions.
  virtual void stay(std::function<bool()> may_read_input) = 0;
  // Whether it had stopped for a while, and runs on, when its departure failed.
  bool freeze_undone() const { return frozen_; }
  // The standard input that is carried; -1: none is.
  int input() const { return input_.get(); }
  // All that went, the one that was asked for first.
  const std::vector<pid_t>& pids() const { return going_; }

 protected:
  using Clock = std::chrono::steady_clock;
  static double ms_since(Clock::time_point start);

  // `doing`: "moving", for people.
  Departure(DepartureSettings settings, DepartureRequest request, std::string_view doing);

  void begin();
  void look(const capture::SurveyOptions& options);
  // `only_first`: nobody here stands for the others.
  void announce(bool only_first = false);
  // Mode::kLive: it runs. What goes wrong leaves it as it was.
  void send_rounds(image::Writer& writer);
  // With all that has come of it.
  // From the keeper that watches them: who traces them otherwise.
  void borrow();
  tracee::FrozenTree freeze();
  // What lies there ahead of what is frozen; null: nothing. `map`: the first process's, as it is
  // then to be surveyed; it outlives what is returned.
  std::unique_ptr<capture::LivePlan> end_rounds(tracee::FrozenTree& frozen,
                                                std::vector<kernel::Vma>& map);
  // They are frozen.
  capture::TreeSurvey look_again(const capture::SurveyOptions& options);
  void tell_streams(const capture::Survey& survey);
  // What of them is carried is ours too from now on.
  void take_streams(const capture::Survey& survey);
  void await_ready();
  // The process may run there from now on.
  void send_go();
  void await_started();
  // Throws where it was killed, or is not wanted to go any more.
  void throw_if_ended();
  // After it was given up. Returns when it does not run there, as far as that can be known; the
  // text of the error, and more.
  std::string await_end_there(const Error& error);
  // Not only by its lease.
  bool is_known_not_to_run() const { return known_not_to_run_; }
  // Until the guest has ended with all that it has begun.
  void stay_home(deputy::Supervisor& supervisor, std::function<bool()> may_read_input,
                 HomeOptions options = {});
  // Whether it had no children when it was looked at.
  bool alone() const { return alone_; }
  void step(SourceEvent event);
  void reach(Step step);
  void show_progress_of(image::Writer& writer);
  void tell_registry();

  protocol::Link& link() { return *opened_->link; }
  // As it was when it was looked at while it ran.
  const capture::Survey& looked() const { return looked_; }

  DepartureSettings settings_;
  DepartureRequest request_;
  std::string doing_;
  std::vector<pid_t> going_;  // all that go, the first one first
  protocol::OwnMachine here_;
  std::optional<OpenedNode> opened_;
  SourceState state_ = SourceState::kSending;
  SessionInfo info_;
  std::optional<RegistryEntry> registry_;
  UniqueFd input_, complaints_;
  UniqueFd streams_[3];  // the process's own that are carried
  std::unique_ptr<Fence> fence_;
  OutgoingMemory memory_;
  std::uint64_t resident_ = 0;  // bytes, of all that go
  SignalFd signals_;
  std::optional<proxy::StdioPump> pump_;
  DepartureReport report_;
  bool frozen_ = false;
  // Of a guest with what came here with it, from borrow() on; outlives what traces them.
  std::optional<WatchLoan> loan_;
  // Its memory goes ahead, until it stands still. It is watched here as long as it may go on here.
  std::unique_ptr<LiveRounds> rounds_;

 private:
  void choose_mode();

  bool known_not_to_run_ = false;
  bool alone_ = true;
  FileNegotiation files_;
  capture::Survey looked_;
  UniqueFd interest_;  // an epoll: of what may end the waits for the node
  Clock::time_point start_, last_step_;
};

}  // namespace telefork::session
