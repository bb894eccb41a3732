// One telefork::run_on(), from its answered request until the program is itself again.
//
//   agent: request --> ProgramCall::answer
//                      RunOnSession::run     the caller's message, freeze, capture, hand-over;
//                                            then it is away: its signals, output, lease;
//                                            then its image is taken and applied
//
// The program itself stays, parked (tracee/parked_process.h): until the guest runs elsewhere it
// goes on when anything fails; once it does, only when the guest is known not to run any more
// (fence.h); and what it goes on as is either what it was or what the guest became. A failure is
// told to the thread that called, by the verdict that its read() gets.
#pragma once

#include <csignal>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "migrate/page_server.h"
#include "proxy/stdio_pump.h"
#include "session/handover.h"
#include "session/home_lease.h"
#include "session/program_call.h"
#include "session/registry.h"
#include "session/repeat_watch.h"
#include "session/signal_fd.h"
#include "tracee/parked_process.h"

namespace telefork::session {

class RunOnSession {
 public:
  using KeepWatch = std::function<void(RepeatWatch::Packed)>;
  // `watch`: what the call before has left; `keep_watch` takes what this one does, after which the
  // program runs.
  RunOnSession(ProgramCall& call, std::optional<RepeatWatch::Packed> watch, KeepWatch keep_watch);

  // `on_started`: it runs there, and what is left to do here is to wait.
  void run(const std::function<void()>& on_started);

 private:
  pid_t program() const { return call_.program(); }
  void step(SourceEvent event);
  void throw_if_killed();
  void depart(SessionInfo& info);
  void hand_over(SessionInfo& info);
  std::unique_ptr<capture::KeptThere> receive_kept(const capture::Survey& survey);
  void watch_writes();
  void await_end();
  void poll_once();
  void on_message(const protocol::ReceivedMessage& message);
  bool keep_late_signal(const protocol::ReceivedMessage& message);
  void on_status(protocol::schema::Status::Reader status);
  void on_parked_event(const tracee::ParkedProcess::Event& event);
  void send_signal(const siginfo_t& info);
  void stop_taking_signals();
  void take_home();
  void finish_output();
  void part_from_node();
  void remember_kept(const protocol::ReceivedMessage& message);
  void on_failure(const Error& error);
  bool has_sent(int signal) const;
  void roll_back(const Error& error);
  void end_program(int status);
  void let_program_die(int signal);

  ProgramCall& call_;
  SignalFd signals_;
  HomeLease lease_;
  std::optional<RegistryEntry> registry_;
  telefork_snapshot caller_{};
  SourceState state_ = SourceState::kSending;
  std::unique_ptr<tracee::ParkedProcess> parked_;
  std::unique_ptr<migrate::PageServer> pages_;  // of what follows it
  std::optional<proxy::StdioPump> pump_;
  UniqueFd standard_error_;           // the program's, where it is carried
  std::vector<kernel::Vma> map_;      // of the program, with flags
  std::optional<RepeatWatch> watch_;  // of a call that may be repeated
  KeepWatch keep_watch_;
  std::vector<kernel::PageRun> kept_there_;  // what the node says that it has kept; rising
  std::set<int> own_fds_;                    // telefork's sockets in the program
  std::map<int, std::uint32_t> sent_fds_;    // descriptors: which description each was sent as
  bool same_user_ = true;                    // the guest has the program's user and group ids
  std::vector<siginfo_t> undelivered_;       // for the program, when it is back
  std::vector<siginfo_t> sent_;              // to the guest, which may have had them by now
  std::vector<siginfo_t> late_;  // of these, what it has not had: the node sent them back
  bool stopped_ = false;         // both ends are stopped by a signal
  bool over_ = false;
};

}  // namespace telefork::session
