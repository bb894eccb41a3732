// `telefork run`: a command that runs on a node, while its pid, its streams and its signals are at
// home.
//
//     caller (the pid at home)                    session process (not its child: no SIGCHLD)
//                                                 CommandSession session(settings, request);
//                                                 session.prepare();   it waits there
//     <--------------------------------- ready    session.run(pid, socket, ...);
//     become_deputy(program, socket)                supervises the deputy, says go, carries
//                                                   everything until the last descendant ended
//
// So the caller's process is a deputy like any other: it can be stopped for days while the session
// process keeps the link alive.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "net/address.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"
#include "session/home.h"
#include "session/node_link.h"
#include "session/programs.h"

namespace telefork::session {

struct CommandRequest {
  net::NodeAddress node;
  std::vector<std::string> arguments;  // the first is looked up there
  std::vector<std::string> environment;
  std::string cwd;
  unsigned umask = 022;
  int nice = 0;
  std::uint64_t ignored_signals = 0;  // bit n-1: signal n, which it inherits as from a shell
  bool cpu_force = false;
};

class CommandSession {
 public:
  struct Settings {
    Programs programs;
    NodeAccess access;
    std::string registry;  // see registry.h; empty: none
    Lease lease;
  };
  CommandSession(Settings settings, CommandRequest request);

  // Opens the link and has the command wait there, with those of the standard streams that this
  // process has. Throws what is in the way; nothing has run.
  void prepare();
  // `become` tells the process `home` to call become_deputy() with the other end of `socket`.
  // Returns when nothing of the command is left; `home` has ended by then, or goes with 125. Throws
  // only where the command never ran; `home` is then told as well.
  void run(pid_t home, UniqueFd socket, const std::function<void()>& become, HomeOptions options);

  // As the node's telepad sees it, and as it sees itself.
  pid_t pid() const { return pid_; }
  pid_t guest_pid() const { return guest_pid_; }

 private:
  void send_command();

  Settings settings_;
  CommandRequest request_;
  protocol::OwnMachine here_;
  std::optional<OpenedNode> opened_;
  std::unique_ptr<Fence> fence_;
  pid_t pid_ = 0;
  pid_t guest_pid_ = 0;
};

}  // namespace telefork::session
