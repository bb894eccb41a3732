// One telefork::fork(), from its answered request to the end of its child.
//
//   agent: request --> ProgramCall::answer
//                      ForkSession::run      the snapshot's message, capture, hand-over, deputy
//
// In run() the snapshot, a child of the program, waits in a read of the session socket. Until the
// child runs elsewhere every failure is told to it there, and it ends with 125. It is never let
// past that read here: so two never run. A failure after go is told when the child is known not to
// run (fence.h).
#pragma once

#include <functional>
#include <memory>

#include "migrate/page_server.h"
#include "session/program_call.h"
#include "session/registry.h"
#include "tracee/snapshot.h"

namespace telefork::session {

class ForkSession {
 public:
  explicit ForkSession(ProgramCall& call) : call_(call) {}

  // To the end of the child and of its last descendant. `on_started`: it runs there, and what is
  // left to do here is to wait.
  void run(const std::function<void()>& on_started);

 private:
  void send_image(const telefork_snapshot& snapshot, RegistryEntry& registry,
                  const SessionInfo& info);
  void make_deputy(int session_fd);
  void tell_snapshot(const Error& error);
  void fence_off(RegistryEntry& registry);
  void look_after_pages(RegistryEntry& registry);
  void end_pages();

  ProgramCall& call_;
  pid_t snapshot_ = 0;  // trusted: the kernel told it
  // Of what follows the child: who serves it, and who has it when the snapshot is the deputy.
  std::unique_ptr<migrate::PageServer> pages_;
  std::unique_ptr<tracee::Snapshot> memory_;
};

}  // namespace telefork::session
