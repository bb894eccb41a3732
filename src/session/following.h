// The memory of a guest that follows it, as its keeper has it: the page connection, and the pager.
// Of several that came together that of each.
//
//     Following following(std::move(page_connection), node, guard, from_home);
//     settings.follow = following.taker(tracks);
//     ...
//     following.let_come();                     // the guest runs
//     ... poll following.fd(); following.check() ...
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernel/pagemap.h"
#include "kernel/userfault.h"
#include "migrate/pager.h"
#include "protocol/link.h"
#include "restore/restorer.h"
#include "session/guard_channel.h"
#include "session/registry.h"

namespace telefork::session {

// That of a link whose bulk connection has the plain bytes, and on which nothing else has come:
// there it is passed (SCM_RIGHTS).
std::unique_ptr<net::Stream> receive_page_connection(const protocol::Link& link);

class Following {
 public:
  // `guard`: the keeper's end of a GuardChannel. Not `from_home`: all of it is here already.
  Following(std::unique_ptr<net::Stream> page_connection, std::string node, UniqueFd guard,
            bool from_home)
      : from_home_(from_home),
        guard_(std::move(guard)),
        pager_(std::move(page_connection), std::move(node),
               {[this](int fd) { guard_.hold(fd); }, [this] { guard_.release(); }}) {}

  // `tracks`: what the guest writes will be asked for; of one alone.
  std::function<void(restore::LazyMemory)> taker(bool tracks);
  // It runs. What is here already waits here for whoever wants it: most of it nobody may.
  void let_come();
  // Of that too all is to come now, for those that live on.
  void let_rest_come();
  // Readable when it has failed, or when all has come, until check(); -1: there is nothing to
  // follow.
  int fd() const { return begun_ ? pager_.fd() : -1; }
  void check() { pager_.check(); }
  bool is_complete() const { return !begun_ || pager_.progress().complete; }
  // How far it is.
  void report(SessionInfo& info) const;

  // Of one whose writes are tracked.
  const kernel::Userfault& faults() const { return *faults_; }
  bool has_begun() const { return begun_; }
  // The guest stands still, and goes home: what it has not touched stays there.
  void settle();
  // The same: of what follows, in [start, end), what has come, or was dropped; rising.
  std::vector<kernel::PageRun> came(RemotePtr start, RemotePtr end) const;
  // What has not come, and was not dropped; rising.
  std::vector<kernel::PageRun> missing() const;
  // Where the guest has moved memory to: all that is there is new to home. Rising.
  std::vector<kernel::PageRun> moved_to() const { return pager_.moved_to(); }

 private:
  void take(restore::LazyMemory lazy, bool tracks);

  bool from_home_;
  GuardChannel guard_;  // for the pager, which is gone before
  migrate::Pager pager_;
  bool begun_ = false;
  bool comes_ = false;  // all of it was asked for
  std::optional<kernel::Userfault> faults_;
  std::vector<kernel::PageRun> ranges_;  // of one whose writes are tracked
};

}  // namespace telefork::session
