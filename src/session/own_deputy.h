// A deputy that no program went away from: a process of telefork's own becomes it, the one that the
// shell waits for (command_session.h), or one that is begun for it (copy_session.h).
//
//     OwnDeputy deputy(settings);                 // a child of this process, which waits
//     ... what can fail ...
//     Supervisor supervisor = deputy.become(signals, ...);
//
// Owned by the session process, with SIGCHLD blocked.
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "deputy/supervisor.h"
#include "session/signal_fd.h"
#include "tracee/stop_watch.h"

namespace telefork::session {

// Blocks every signal and executes the deputy's program in the place of this one, called
// `process_name`, with `socket` as its only descriptor but stderr. Returns the errno when that
// failed.
int become_deputy(const std::string& program, int socket, const std::string& process_name,
                  char* const* arguments);

// Watches a process that is about to become one, as its supervisor does.
tracee::StopWatch watch_own(pid_t home);
// Until it is in place. Throws kGone where it was ended.
void await_own_deputy(deputy::Supervisor& supervisor, SignalFd& signals);

class OwnDeputy {
 public:
  struct Settings {
    std::string program;                 // of the deputy
    std::vector<std::string> arguments;  // as `ps` shows them
    std::string name;
    int standard_error = -1;  // -1: it has none
  };
  explicit OwnDeputy(const Settings& settings);
  OwnDeputy(const OwnDeputy&) = delete;
  OwnDeputy& operator=(const OwnDeputy&) = delete;
  // Kills it, unless it has been supervised to its end.
  ~OwnDeputy();

  pid_t pid() const { return pid_; }
  deputy::Supervisor become(SignalFd& signals, UniqueFd complaints);

 private:
  pid_t pid_ = 0;
  UniqueFd go_;  // it waits until it can read from the other end
  UniqueFd socket_;
};

}  // namespace telefork::session
