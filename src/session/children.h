// What a telepad has started, and the end of what that leaves behind.
//
//     children.add_keeper(spawn(...));
//     children.reap([&](pid_t pid) { ... });
//     children.kill_orphans(is_known);
//     if (!children.has_orphans()) ...        // nothing of a keeper that has ended runs any more
//
// The process becomes a subreaper: what a keeper leaves when it is killed becomes its child, and is
// killed here, until none of it is left. What an agent leaves lives on. No orphan can be told to be
// another keeper's: as long as there is any, has_orphans() says so for all of them.
#pragma once

#include <functional>
#include <set>

#include <sys/types.h>

namespace telefork::session {

class Children {
 public:
  Children();
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;

  void add_keeper(pid_t keeper) { keepers_.insert(keeper); }
  // The leader of a session (setsid(2)).
  void add_agent(pid_t agent);

  // Tells of each that has ended; never waits.
  void reap(const std::function<void(pid_t pid)>& on_reaped);
  // `is_known`: children that somebody else has started. Never waits: after a while it is to be
  // called again, while there are any.
  void kill_orphans(const std::function<bool(pid_t)>& is_known);
  // Some may be there.
  bool has_orphans() const { return has_orphans_; }

 private:
  void forget(pid_t pid);
  void forget_agents();
  bool is_ours(pid_t child) const;
  bool find_and_kill(const std::function<bool(pid_t)>& is_known);

  std::set<pid_t> keepers_;
  std::set<pid_t> agents_;  // also their session ids: their children are no orphans of ours
  std::set<pid_t> agent_sessions_;
  bool has_orphans_ = false;
  std::set<pid_t> condemned_;  // killed, not reaped yet
};

}  // namespace telefork::session
