// One `telefork move`: a running process that was never asked goes elsewhere, and its deputy takes
// its place here.
//
//     MoveSession session(settings, request);
//     MoveReport report = session.move();      // it runs there; the pid here is the deputy's
//     session.stay();                          // until nothing of it is left there
//
//   look -> freeze -> capture -> sent -> ready | given up -> go -> started -> hollow | stay
//
// Until it is given up the process goes on here whatever happens. From then on it waits, parked
// (tracee/parked_process.h), until the node says that it runs there, and then becomes the deputy;
// or until it is known that it does not (fence.h), and then it goes on here after all. Two never
// run. If this process dies in between, the parked one waits out the lease.
//
// Owned by the process that serves this one session, single-threaded, with SIGCHLD blocked.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "capture/survey.h"
#include "kernel/probe.h"
#include "kernel/yama.h"
#include "protocol/machine.h"
#include "proxy/stdio_pump.h"
#include "session/fence.h"
#include "session/file_negotiation.h"
#include "session/handover.h"
#include "session/home.h"
#include "session/node_link.h"
#include "session/programs.h"
#include "session/registry.h"
#include "session/signal_fd.h"
#include "tracee/parked_process.h"

namespace telefork::session {

struct MoveRequest {
  pid_t pid = 0;
  net::NodeAddress node;
  bool copy_shared = false;
  bool cpu_force = false;
  bool libc_force = false;
};

struct MoveSettings {
  Programs programs;
  NodeAccess access;
  std::string registry;  // see registry.h; empty: none
  Lease lease;
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  kernel::TraceBar trace_bar = kernel::TraceBar::kNone;
  // Readable: whoever asked for it may not want it any more, and `is_unwanted` is asked, until the
  // process is given up.
  int wish_fd = -1;
  std::function<bool()> is_unwanted;
  Steps steps;
};

struct MoveReport {
  // How long it took from the step before, or from the beginning, to this one.
  struct Share {
    std::string_view step;
    double ms;
  };

  pid_t pid = 0;        // as the node sees it
  pid_t guest_pid = 0;  // as it sees itself
  std::uint64_t bytes_sent = 0;
  std::uint64_t pages_sent = 0;
  double freeze_ms = 0;  // from the freeze until it runs there
  double total_ms = 0;
  std::vector<Share> shares;          // in their order
  std::vector<std::string> warnings;  // what is not as it was
};

class MoveSession {
 public:
  MoveSession(MoveSettings settings, MoveRequest request);
  ~MoveSession();

  // Throws what is in the way; then the process runs on here, or has ended.
  MoveReport move();
  // Whether it had stopped for a while when move() failed.
  bool freeze_undone() const { return frozen_; }
  // The standard input that is carried; -1: none is.
  int input() const { return input_.get(); }
  // Until the process has ended there with all that it has begun; the pid here has ended by then.
  // `may_read_input` as in HomeOptions.
  void stay(std::function<bool()> may_read_input);

 private:
  using Clock = std::chrono::steady_clock;

  void look();
  capture::SurveyOptions survey_options() const;
  void announce();
  void depart();
  void tell_streams(const capture::Survey& survey);
  void take_streams(const capture::Survey& survey);
  void give_up();
  void open_session_socket();
  void close_session_socket();
  void take_stale_signals();
  void hollow_out();
  void throw_if_ended();
  void on_failure(const Error& error);
  void roll_back() noexcept;
  void step(SourceEvent event);
  void reach(Step step);

  MoveSettings settings_;
  MoveRequest request_;
  protocol::OwnMachine here_;
  std::optional<OpenedNode> opened_;
  std::unique_ptr<Fence> fence_;
  FileNegotiation files_;
  capture::Survey looked_;
  SignalFd signals_;
  UniqueFd interest_;  // an epoll: of what may end the waits for the node
  SourceState state_ = SourceState::kSending;
  SessionInfo info_;
  std::optional<RegistryEntry> registry_;
  std::unique_ptr<tracee::ParkedProcess> parked_;
  std::vector<siginfo_t> captured_signals_;  // pending ones that have gone with it
  std::vector<siginfo_t> taken_signals_;     // of them, to be given back if it goes on here
  UniqueFd session_socket_;                  // our end
  int their_socket_ = -1;                    // its number in the process
  UniqueFd input_, complaints_;
  std::optional<proxy::StdioPump> pump_;
  std::optional<deputy::Supervisor> supervisor_;
  MoveReport report_;
  Clock::time_point last_step_;
  bool frozen_ = false;
};

}  // namespace telefork::session
