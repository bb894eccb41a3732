// Makes of the deputy the blank process that becomes the program again, and the other way round:
// the pid at home, its parent, session and process group stay what they are.
//
//     DeputyExchange exchange(pid, supervisor, programs);
//     settings.find_blank = [&](pid_t) { return exchange.take(); };   // the deputy is gone
//     TreeRestorer restorer(settings);
//     ...
//     exchange.give_back(restorer, stderr)                            // or it is there again
//
// The session process is the deputy's tracer already. A signal that comes while there is a blank
// process waits in the kernel: the blank has all of them blocked. From take() to give_back(), or to
// the restorer's release_found(), the pid ends by SIGKILL if the session process dies.
//
// Owned by the thread that watches the deputy.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "deputy/supervisor.h"
#include "restore/blank.h"
#include "restore/tree_restorer.h"
#include "session/programs.h"

namespace telefork::session {

class DeputyExchange {
 public:
  // `supervisor` is of process `pid`. All must outlive it.
  // `own_pid`: as it sees itself.
  DeputyExchange(pid_t pid, pid_t own_pid, std::optional<deputy::Supervisor>& supervisor,
                 const Programs& programs)
      : pid_(pid), own_pid_(own_pid), supervisor_(supervisor), programs_(programs) {}

  // What the deputy has sent by then can be read from the supervisor; it is to go before
  // give_back(). Where it throws the deputy is as it was, but for kGone: then it has ended, and was
  // waited for.
  restore::Blank take();
  // A new supervisor for it. kGone: it has ended.
  void give_back(restore::TreeRestorer& restorer, const UniqueFd& standard_error);
  // Whether take() was called, and was not undone.
  bool taken() const { return taken_; }

 private:
  tracee::TracedThread hold();
  UniqueFd make_socket(tracee::Stub& stub, int type, int& number) const;
  restore::Blank exec_blank(tracee::TracedThread& thread);

  pid_t pid_;
  pid_t own_pid_;
  std::optional<deputy::Supervisor>& supervisor_;
  const Programs& programs_;
  std::vector<std::string> arguments_;  // the deputy's, which are the program's, as is its name
  std::string name_;
  bool taken_ = false;
};

}  // namespace telefork::session
