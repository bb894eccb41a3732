// One telefork::fork(), from the request of a program to the end of its child: the session process
// of the agent. It is forked ahead of the request, with the link open, so that the program waits
// for nothing but its own fork.
//
//   agent: request --> ForkSession::answer   checks all that can be known; the reply, with the
//                                            session socket, or the error
//                      ForkSession::run      the snapshot's message, capture, hand-over, deputy
//
// In run() the snapshot, a child of the program, waits in a read of the session socket. Until the
// child runs elsewhere every failure is told to it there, and it ends with 125. It is never let
// past that read here: so two never run. A failure after go is told when the child is known not to
// run (fence.h).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "abi/agent.h"
#include "base/unique_fd.h"
#include "capture/survey.h"
#include "kernel/probe.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"
#include "session/fence.h"
#include "session/file_negotiation.h"
#include "session/lease.h"
#include "session/node_link.h"
#include "session/programs.h"
#include "session/registry.h"
#include "session/steps.h"

namespace telefork::session {

struct AgentSettings {
  Programs programs;
  NodeAccess access;
  std::string registry;  // see registry.h; empty: none
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  Lease lease;
  Steps steps;
};

class ForkSession {
 public:
  ForkSession(const AgentSettings& settings, std::string node);
  ~ForkSession();

  // Ahead of a request of process `pid`: opens the link, and asks about the files that it maps.
  // What is in the way is thrown, and found again when the request comes.
  void get_ready_for(pid_t pid);
  // Checks the request of process `pid` and answers it on the program's socket. False: the answer
  // was an error.
  bool answer(const telefork_agent_request& request, pid_t pid, int program_socket);
  // To the end of the child and of its last descendant. `on_started`: it runs there, and what is
  // left to do here is to wait.
  void run(const std::function<void()>& on_started);

 private:
  // Where it is not open, or not any more. Throws what is in the way.
  void open();
  void check(const telefork_agent_request& request, pid_t pid);
  capture::SurveyOptions survey_options(pid_t parent) const;
  void send_image(const telefork_snapshot& snapshot);
  void tell_snapshot(const Error& error);
  void fence_off(RegistryEntry& registry);

  const AgentSettings& settings_;
  std::string node_;
  protocol::OwnMachine here_;
  std::optional<OpenedNode> opened_;
  std::unique_ptr<Fence> fence_;
  FileNegotiation files_;
  capture::Survey last_survey_;  // of the parent
  telefork_agent_request request_{};
  pid_t parent_ = 0;
  pid_t snapshot_ = 0;  // trusted: the kernel told it
  UniqueFd session_socket_;
};

}  // namespace telefork::session
