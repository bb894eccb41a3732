// What came to a node with its parent is traced by its keeper (guest_members.h). Who moves it on
// from there has to be its tracer, as of its deputy then; so its keeper lends it: by a socket
// beside its entry in the registry, which only its user and root can reach.
//
//   WatchLoan, in the session process                   WatchLender, in the keeper
//     "lend PID"                --------------------->
//                                                         lets go of PID and what has come of it
//             <---------------------------------------  "lent PID:STOPPED PID:STOPPED ..."
//     freezes them, parks them, is their deputies' tracer
//     "PID STATUS"              --------------------->  tells its home
//     ...
//     "back"                    --------------------->  watches them again
//
// Between the one and the other nobody watches: whether one is stopped is compared then; how one
// has ended in that instant is not known where its parent has waited for it by then. If the session
// process ends without "back", that is as if it had said so when it is gone; but what is parked
// then is watched only when it goes on.
//
// Each is owned by one thread, the lender by the one that watches.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <poll.h>
#include <sys/types.h>

#include "base/unique_fd.h"
#include "net/unix_stream.h"
#include "session/guest_members.h"
#include "tracee/held_process.h"

namespace telefork::session {

// The keeper of a guest, and where it can be asked.
struct KeeperCall {
  pid_t keeper = 0;
  std::string path;                          // empty: it watches nobody
  std::vector<std::string> namespaces = {};  // that it has made: SessionInfo::namespaces
};
// Of the keeper that `pid` descends from. Empty: there is none.
std::optional<KeeperCall> find_keeper_call(pid_t pid, const std::vector<std::string>& registries);

class WatchLoan {
 public:
  // Of `pid` and what has come of it. Returns when the keeper has let go. Throws why it does not.
  WatchLoan(const KeeperCall& keeper, pid_t pid);
  WatchLoan(const WatchLoan&) = delete;
  WatchLoan& operator=(const WatchLoan&) = delete;
  // They are traced by nobody then.
  ~WatchLoan();

  // Those that have not ended, and whether they were stopped when they were last told of.
  const std::map<pid_t, bool>& members() const { return members_; }
  // `status` as waitpid(2) has it. Nothing for one that is not among them.
  void tell(pid_t pid, int status);
  void tell_stopped(pid_t pid, bool stopped);
  void tell_held(const tracee::HeldProcess& held);

 private:
  UniqueFd talk_;
  std::map<pid_t, bool> members_;
};

class WatchLender {
 public:
  using Tell = std::function<void(const std::vector<GuestMembers::Change>&)>;
  // Without a folder nobody can ask. `members` outlives it.
  WatchLender(const std::string& registry, GuestMembers& members, Tell tell);

  void add_interest(std::vector<pollfd>& entries) const;
  // Takes up whatever has come; at every turn.
  void look();

 private:
  struct Loan {
    UniqueFd talk;      // empty: nothing more comes
    UniqueFd borrower;  // a pidfd
    std::vector<pid_t> pids;
    std::string received = {};  // the beginning of a line
    bool over = false;
  };
  void accept();
  void lend(UniqueFd talk);
  void read(Loan& loan);
  void take_line(const std::string& line, Loan& loan);
  void take_back(Loan& loan);

  GuestMembers& members_;
  Tell tell_;
  std::optional<net::UnixListener> listener_;
  std::vector<Loan> loans_;
};

}  // namespace telefork::session
